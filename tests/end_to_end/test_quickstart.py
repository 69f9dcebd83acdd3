"""The quickstart command at a small scale, on synthetic videos and on real ones where available."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from tests.support.commands import cmmixer


def check_outputs(out: Path, candidates: int) -> dict[str, object]:
    metrics: dict[str, object] = json.loads((out / "metrics.json").read_text())
    assert metrics["candidates"] == candidates
    for evaluation in (metrics, metrics["baseline"]):
        assert isinstance(evaluation, dict)
        for way in ("video_to_audio", "audio_to_video"):
            assert set(evaluation[way]) == {"R@1", "R@5", "R@10", "MedR", "MRR"}
            assert 0 <= evaluation[way]["R@1"] <= evaluation[way]["R@10"] <= 1
    page = (out / "report.html").read_text()
    # Self-contained: it loads nothing, and embeds videos and sounds.
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert page.count("<video") >= 4
    assert page.count("<audio") >= 4
    assert "data:video/mp4;base64," in page
    return metrics


def test_quickstart_runs_all_steps_and_a_second_call_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "quickstart"
    done = cmmixer("quickstart", "--scale", "0.02", "--out", out, "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = check_outputs(out, candidates=8)
    assert json.loads(done.stdout) == metrics
    assert metrics["overlap"] == 0
    again = cmmixer("quickstart", "--scale", "0.02", "--out", out, "--json")
    assert again.returncode == 0, again.stderr[-2000:]
    same = json.loads(again.stdout)
    for name in ("video_to_audio", "audio_to_video", "model_id", "gallery", "baseline"):
        assert same[name] == metrics[name]
    assert (metrics["attempts"], same["attempts"], same["attempts_killed"]) == (1, 2, 0)
    assert same["minutes"]["pretrain"] >= metrics["minutes"]["pretrain"] > 0
    assert same["minutes"]["total"] == pytest.approx(sum(same["minutes"].values()) / 2, abs=0.05)
    other = cmmixer("quickstart", "--scale", "0.02", "--out", out, "--seed", "1")
    assert other.returncode == 2
    assert (
        "holds a quickstart with other settings: seed is 0 there, 1 here; choose another --out, or --overwrite"
        in other.stderr
    )
    found = cmmixer(
        "search",
        "--index",
        out / "index",
        out / "videos" / "gallery" / "000003.mp4",
        "--for",
        "audio",
        "-k",
        "3",
        "--json",
    )
    assert found.returncode == 0, found.stderr[-2000:]
    hits = json.loads(found.stdout)["hits"]
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    assert all(-1 <= hit["score"] <= 1 and hit["end_seconds"] > hit["start_seconds"] for hit in hits)


@pytest.mark.data
def test_quickstart_on_real_videos(real_media: Path, tmp_path: Path) -> None:
    with (real_media / "films" / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    chosen = [row for row in rows if row["split"] == "train"][:12] + [row for row in rows if row["split"] == "gallery"][
        :6
    ]
    manifest = tmp_path / "videos.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "source", "label", "split"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, "path": str(real_media / "films" / row["path"])} for row in chosen)
    out = tmp_path / "real"
    done = cmmixer("quickstart", "--data", manifest, "--scale", "0.01", "--out", out)
    assert done.returncode == 0, done.stderr[-2000:]
    listed = json.loads((out / "stores" / "gallery" / "skipped.json").read_text())["files"]
    check_outputs(out, candidates=6 - len(listed))
    page = (out / "report.html").read_text()
    assert "far too few to learn from scratch" in page
    assert "They are no benchmark" in page
