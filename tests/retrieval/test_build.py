"""Building an index: adding twice, changes, removals, other models, damage, full disks, and kills at every kind of write."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pytest
import torch
from lancedb.table import LanceTable

from cmmixer.config import IndexSettings, SearchSettings
from cmmixer.data import chunks as chunks_module
from cmmixer.errors import SearchIndexError
from cmmixer.media.decode import MediaFile
from cmmixer.models.retriever import Embedding
from cmmixer.retrieval.build import IndexReport, index
from cmmixer.retrieval.index import MomentIndex
from cmmixer.retrieval.search import search
from tests.support import killed_indexing
from tests.support.coloured_videos import BLUE, GREEN, RED, ColourEncoder, sound, unit, video
from tests.support.commands import ENVIRONMENT, ROOT
from tests.support.counting_videos import long_video
from tests.support.small_runs import NANO


@pytest.fixture(autouse=True)
def _decode_here(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if request.node.name != "test_with_real_decoder_processes":
        monkeypatch.setattr(chunks_module, "map_sandboxed", killed_indexing.decode_here)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    video(folder / "red.mp4", [RED, RED])
    video(folder / "green.mp4", [GREEN, BLUE], sound=None)
    sound(folder / "blue.wav", [BLUE])
    (folder / "empty.mp4").write_bytes(b"")
    return folder


def _settings(data: Path, **options: Any) -> IndexSettings:
    return IndexSettings(model="-", data=str(data), index=str(data.parent / "library"), **{"workers": 1, **options})


def _index(data: Path, encoder: ColourEncoder | None = None, **options: Any) -> IndexReport:
    return index(_settings(data, **options), encoder=encoder or ColourEncoder())


def _counts(report: IndexReport) -> dict[str, int]:
    values = report.as_json()
    return {name: values[name] for name in ("added", "changed", "unchanged", "removed", "skipped", "moments")}


def _content(folder: Path) -> list[tuple[Any, ...]]:
    """Returns the named moments with their vectors, and the rows of files without their random keys."""
    library = MomentIndex.open(folder)
    rows = lancedb.connect(folder).open_table("moments").to_arrow().to_pylist()
    named = library.named([row["batch"] for row in rows])
    vectors = [
        (
            row["id"],
            *(None if row[modality] is None else tuple(np.round(row[modality], 5)) for modality in ("video", "audio")),
        )
        for row in rows
        if row["batch"] in named
    ]
    files = [(row.name, row.status, row.reason, row.moments, row.sha256) for row in library.files()]
    return sorted(vectors, key=str) + sorted(files, key=str)


def _all_moments(folder: Path) -> list[str]:
    return sorted(lancedb.connect(folder).open_table("moments").to_arrow()["id"].to_pylist())


def test_adding_twice_changes_nothing_and_opens_no_video(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _index(data)
    assert _counts(first) == {"added": 3, "changed": 0, "unchanged": 0, "removed": 0, "skipped": 1, "moments": 7}
    assert first.skips.counts == {"empty": 1}
    library = data.parent / "library"
    assert first.render().plain == (
        f"{library}: 3 added, 0 changed, 0 unchanged, 0 removed; 7 moments to search\n"
        f"1 file left out: 1 empty; see {library}/skipped.txt"
    )
    before = _content(data.parent / "library")
    encoder = ColourEncoder()
    monkeypatch.setattr(MediaFile, "open", None)  # opening anything would fail
    second = _index(data, encoder)
    assert _counts(second) == {"added": 0, "changed": 0, "unchanged": 4, "removed": 0, "skipped": 1, "moments": 7}
    assert encoder.batches == []
    assert _content(data.parent / "library") == before


def test_metadata_and_skips_are_readable_files(data: Path) -> None:
    _index(data)
    folder = data.parent / "library"
    values = json.loads((folder / "index.json").read_text())
    assert values["model_id"] == ColourEncoder().id
    assert (values["embed_dim"], values["clip"]["clip_seconds"]) == (4, 1.0)
    assert values["segmentation"] == {"moment_seconds": 1.0, "stride_seconds": 0.5, "shots": False}
    assert "empty.mp4: " in (folder / "skipped.txt").read_text()
    assert (folder / "writing").read_bytes() == b""


def test_moments_have_the_vectors_of_their_files(data: Path) -> None:
    _index(data)
    rows = lancedb.connect(data.parent / "library").open_table("moments").to_arrow().to_pylist()
    by_file = {
        name: [row for row in rows if row["path"] == str(data / name)] for name in ("red.mp4", "green.mp4", "blue.wav")
    }
    assert {name: len(found) for name, found in by_file.items()} == {"red.mp4": 3, "green.mp4": 3, "blue.wav": 1}
    assert all(
        np.dot(row["video"], unit(RED)) > 0.98 and np.dot(row["audio"], unit(RED)) > 0.98 for row in by_file["red.mp4"]
    )
    assert all(row["audio"] is None for row in by_file["green.mp4"])
    assert by_file["blue.wav"][0]["video"] is None


def test_changed_and_repaired_files_are_embedded_again_and_touched_ones_not(data: Path) -> None:
    _index(data)
    video(data / "red.mp4", [BLUE, BLUE, BLUE])
    os.utime(data / "blue.wav", ns=(1, 1))  # another time, the same content
    video(data / "empty.mp4", [RED])
    report = _index(data)
    assert _counts(report) == {"added": 0, "changed": 2, "unchanged": 2, "removed": 0, "skipped": 0, "moments": 10}
    rows = lancedb.connect(data.parent / "library").open_table("moments").to_arrow().to_pylist()
    red = [row for row in rows if row["path"].endswith("red.mp4")]
    assert len(red) == 5
    assert all(np.dot(row["video"], unit(BLUE)) > 0.98 for row in red)
    assert _counts(_index(data))["unchanged"] == 4


def test_label_of_a_manifest_reaches_the_moments(data: Path) -> None:
    manifest = data / "manifest.csv"
    for label in ("alarm", "bell"):
        manifest.write_text(f"path,label\nred.mp4,{label}\nred.mp4,{label}\n")
        report = _index(data)
        rows = lancedb.connect(data.parent / "library").open_table("moments").to_arrow().to_pylist()
        assert [row["label"] for row in rows] == [label] * 3
    assert (report.changed, report.skips.counts) == (1, {"duplicate": 1})


def _metadata(data: Path) -> dict[str, dict[str, Any]]:
    return {Path(row.path).name: row.metadata for row in MomentIndex.open(data.parent / "library").files()}


def test_other_columns_of_a_manifest_change_without_embedding(data: Path) -> None:
    manifest = data / "manifest.csv"
    manifest.write_text('path,camera,Shot by,,note\nred.mp4,B,"Ö, N",x,\nblue.wav, ,,,\n')
    _index(data)
    assert _metadata(data) == {"red.mp4": {"camera": "B", "Shot by": "Ö, N"}, "blue.wav": {}}
    before = _content(data.parent / "library")
    manifest.write_text("path,camera\nred.mp4,C\nblue.wav,A\n")
    os.utime(data / "blue.wav", ns=(1, 1))
    encoder = ColourEncoder()
    report = _index(data, encoder)
    assert (report.changed, report.unchanged, encoder.batches) == (0, 2, [])
    assert _metadata(data) == {"red.mp4": {"camera": "C"}, "blue.wav": {"camera": "A"}}
    assert _content(data.parent / "library") == before
    manifest.unlink()
    (data / "manifest.jsonl").write_text(
        '{"path": "red.mp4", "take": 3, "tags": ["sea", "\\ud800"], "level": 1e999, "none": null}\n{"path": "blue.wav"}\n'
    )
    _index(data)
    assert _metadata(data) == {"red.mp4": {"take": 3, "tags": ["sea", "?"], "level": None}, "blue.wav": {}}


def test_sync_removes_what_is_gone_from_the_same_data_only(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    sound(other / "bell.wav", [GREEN])
    _index(data)
    index(
        IndexSettings(model="-", data=str(other), index=str(tmp_path / "library"), workers=1), encoder=ColourEncoder()
    )
    (data / "red.mp4").unlink()
    (data / "empty.mp4").unlink()
    assert _counts(_index(data))["removed"] == 0
    assert len(_all_moments(tmp_path / "library")) == 8
    report = _index(data, sync=True)
    assert (report.removed, report.moments, report.skips.counts) == (2, 5, {})
    assert sorted({os.path.basename(name.split("#")[0]) for name in _all_moments(tmp_path / "library")}) == [
        "bell.wav",
        "blue.wav",
        "green.mp4",
    ]


def test_a_file_that_ran_out_of_time_is_tried_again_with_more(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = chunks_module.decode_chunk

    def slow(chunk: Any, spec: Any) -> Any:
        if spec.file_seconds < 5 and chunk.path.endswith("red.mp4"):
            raise chunks_module.MediaError(chunk.path, "time-limit", f"took longer than {spec.file_seconds:g} s")
        return decode(chunk, spec)

    monkeypatch.setattr(chunks_module, "decode_chunk", slow)
    assert _index(data, file_seconds=2).skips.counts == {"time-limit": 1, "empty": 1}
    assert _counts(_index(data, file_seconds=2))["unchanged"] == 4
    report = _index(data, file_seconds=9)
    assert (report.changed, report.unchanged, report.skips.counts) == (1, 3, {"empty": 1})


def test_a_file_whose_decoder_was_killed_is_tried_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = chunks_module.decode_chunk

    def killed(chunk: Any, spec: Any) -> Any:
        if chunk.path.endswith("red.mp4"):
            raise chunks_module.MediaError(chunk.path, "crashed", "the decoder's process died (exit code -9)")
        return decode(chunk, spec)

    monkeypatch.setattr(chunks_module, "decode_chunk", killed)
    assert _index(data).skips.counts == {"crashed": 1, "empty": 1}
    monkeypatch.setattr(chunks_module, "decode_chunk", decode)
    report = _index(data)
    assert (report.changed, report.unchanged, report.skips.counts) == (1, 3, {"empty": 1})


def test_names_that_are_not_utf8(data: Path) -> None:
    odd = os.fsdecode(os.fsencode(str(data)) + b"/caf\xe9 'quoted'.wav")
    os.replace(data / "blue.wav", odd)
    assert _counts(_index(data))["added"] == 3
    assert _counts(_index(data))["unchanged"] == 4
    os.unlink(odd)
    assert _index(data, sync=True).removed == 1
    assert any("caf\\xe9" in row.path for row in MomentIndex.open(data.parent / "library").files()) is False


def test_another_model_or_stride_is_refused(data: Path) -> None:
    _index(data)
    mine, other = ColourEncoder(), ColourEncoder("other", "runs/other")
    with pytest.raises(SearchIndexError) as refusal:
        _index(data, other)
    assert mine.id[:16] in str(refusal.value)
    assert other.id[:16] in str(refusal.value)
    assert "runs/other" in str(refusal.value)
    with pytest.raises(SearchIndexError, match=r"start every 0.5 s, got --stride_seconds 0.25; leave it out"):
        _index(data, stride_seconds=0.25)
    assert _counts(_index(data, stride_seconds=0.5))["unchanged"] == 4


def test_missing_and_damaged_folders(data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        SearchIndexError, match=r"no index there \(index\.json is missing\); make one with `cmmixer index"
    ):
        MomentIndex.open(tmp_path / "none")
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "letter.txt").write_text("x")
    with pytest.raises(SearchIndexError, match=r"is not an index: no index.json"):
        _index(data)
    (tmp_path / "library" / "letter.txt").unlink()
    _index(data)
    file = tmp_path / "library" / "index.json"
    text = file.read_text()
    for damage, message in (
        ("{", r"damaged \(not JSON"),
        ("[]", r"damaged \(got a JSON list"),
        (text.replace('"format": 3', '"format": 9'), "got format 9 of a newer version of cmmixer, expected 3"),
        (text.replace('"embed_dim"', '"embed_dims"'), r"unknown keys: embed_dims \(did you mean embed_dim\?\)"),
        (text.replace('"embed_dim": 4', '"embed_dim": 8'), "has other columns than expected"),
    ):
        file.write_text(damage)
        with pytest.raises(SearchIndexError, match=message):
            MomentIndex.open(tmp_path / "library")
    file.unlink()
    with pytest.raises(SearchIndexError, match=r"is damaged: index.json is missing"):
        MomentIndex.open(tmp_path / "library")
    file.write_text(text)
    for fragment in (tmp_path / "library" / "moments.lance" / "data").iterdir():
        fragment.write_bytes(fragment.read_bytes()[:20])
    with pytest.raises(SearchIndexError, match=r"is damaged .* make an index in a new folder"):
        MomentIndex.open(tmp_path / "library").nearest(np.eye(4, dtype=np.float32)[:1], "video", 3)


def test_a_file_instead_of_a_folder(data: Path) -> None:
    (data.parent / "library").write_text("x")
    with pytest.raises(SearchIndexError, match="got a file, expected the folder of an index"):
        _index(data)


def test_one_writer_at_a_time(data: Path) -> None:
    with (
        MomentIndex.writing(data.parent / "library", ColourEncoder(), None),
        pytest.raises(SearchIndexError, match="another process is writing to this index"),
    ):
        _index(data)
    assert _counts(_index(data))["added"] == 3


def test_full_disk_leaves_the_index_unchanged(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _index(data)
    before = _content(data.parent / "library")
    video(data / "new.mp4", [RED])
    add = LanceTable.add

    def full(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError(
            "lance error: LanceError(IO): No space left on device (os error 28), writer/structural.rs:258:9"
        )

    monkeypatch.setattr(LanceTable, "add", full)
    with pytest.raises(SearchIndexError, match="the disk is full; free some space and run the same command again"):
        _index(data)
    assert _content(data.parent / "library") == before
    monkeypatch.setattr(LanceTable, "add", add)
    assert _counts(_index(data))["added"] == 1


def test_with_real_decoder_processes(data: Path) -> None:
    assert _counts(_index(data))["added"] == 3


@pytest.fixture(scope="module")
def runs() -> Iterator[subprocess.Popen[str]]:
    """The program that runs `index` in processes that die."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.killed_indexing"]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        yield program
        assert program.stdin is not None
        program.stdin.close()


def _run_and_die(runs: subprocess.Popen[str], settings: IndexSettings, writes: int) -> None:
    assert runs.stdin is not None
    assert runs.stdout is not None
    runs.stdin.write(json.dumps({"settings": asdict(settings), "writes": writes}) + "\n")
    runs.stdin.flush()
    assert int(runs.stdout.readline()) == -signal.SIGKILL


# A first run writes, per file: moments, row (the skipped one: row only).
@pytest.mark.parametrize("writes", [1, 2, 3, 6])
def test_kill_while_adding_is_completed_by_the_next_run(data: Path, runs: subprocess.Popen[str], writes: int) -> None:
    whole = _index(data)
    expected = _content(data.parent / "library")
    os.rename(data.parent / "library", data.parent / "whole")
    _run_and_die(runs, _settings(data), writes)
    half = _content(data.parent / "library")
    assert set(half) < set(expected)  # what is there is right, and nothing is there twice
    again = _index(data)
    assert again.unchanged + again.added + again.skipped >= 4
    assert _content(data.parent / "library") == expected
    assert len(_all_moments(data.parent / "library")) == whole.moments


# A changed file: its new moments, its row, away with its old moments.
@pytest.mark.parametrize("writes", [1, 2, 3])
def test_kill_while_changing_neither_duplicates_nor_loses_moments(
    data: Path, runs: subprocess.Popen[str], writes: int
) -> None:
    _index(data)
    before = _content(data.parent / "library")
    video(data / "red.mp4", [BLUE, BLUE, BLUE])
    _run_and_die(runs, _settings(data), writes)
    half = _content(data.parent / "library")
    assert (half == before) == (writes == 1)
    assert len(_all_moments(data.parent / "library")) == {1: 12, 2: 12, 3: 9}[writes]
    report = _index(data)
    assert (report.changed, report.moments) == (1 if writes == 1 else 0, 9)
    after = _content(data.parent / "library")
    assert writes == 1 or half == after
    assert len(_all_moments(data.parent / "library")) == 9


def test_nearest_is_exact_and_passes_over_missing_modalities(data: Path) -> None:
    _index(data)
    library = MomentIndex.open(data.parent / "library")
    queries = np.stack([unit(RED), unit(BLUE)]).astype(np.float32)
    rows = library.nearest(queries, "audio", 10)
    assert len(rows) == 8  # four moments have sound
    table = lancedb.connect(data.parent / "library").open_table("moments").to_arrow().to_pylist()
    for row in rows:
        (vector,) = [np.array(other["audio"]) for other in table if other["id"] == row["id"]]
        assert row["score"] == pytest.approx(float(vector @ queries[row["query"]]), abs=1e-5)
    first = [next(row for row in rows if row["query"] == query) for query in (0, 1)]
    assert [os.path.basename(row["path"]) for row in first] == ["red.mp4", "blue.wav"]


def test_an_index_of_shots_and_of_longer_moments(tmp_path: Path) -> None:
    """Moments keep to shots, or last longer with more frames; queries are cut the same way; another segmentation is refused."""
    data = tmp_path / "data"
    video(data / "a.mp4", [RED, GREEN, BLUE], seconds_each=1.5)
    index(
        IndexSettings(index=str(tmp_path / "shots"), model="-", data=str(data), workers=1, shots=True),
        encoder=ColourEncoder(),
    )
    library = MomentIndex.open(tmp_path / "shots")
    rows = library.moments.to_table(["start_seconds", "end_seconds"]).to_pylist()
    spans = sorted((row["start_seconds"], row["end_seconds"]) for row in rows)
    assert spans == [(begin + start, begin + start + 1.0) for begin in (0.0, 1.5, 3.0) for start in (0.0, 0.5)]
    assert (library.metadata.segmentation.shots, library.metadata.frames) == (True, 2)
    found = search(
        SearchSettings(query=str(data / "a.mp4"), index=str(tmp_path / "shots"), target="any", k=9),
        encoder=ColourEncoder(),
    )
    assert all(hit.score > 0.999 for hit in found.hits)
    assert {hit.query_start_seconds for hit in found.hits} <= {0.0, 0.5, 1.5, 2.0, 3.0, 3.5}

    longer = IndexSettings(index=str(tmp_path / "long"), model="-", data=str(data), workers=1, moment_seconds=3.0)
    index(longer, encoder=AnyLength())
    library = MomentIndex.open(tmp_path / "long")
    rows = library.moments.to_table(["start_seconds", "end_seconds", "video_frames"]).to_pylist()
    assert sorted((row["start_seconds"], row["end_seconds"]) for row in rows) == [(0.0, 3.0), (1.5, 4.5)]
    assert {len(row["video_frames"]) for row in rows} == {
        6 * 4
    }  # twice as many a second as there are seconds, of four values
    with pytest.raises(SearchIndexError, match=r"its moments last 3 s, got --moment_seconds 2; leave it out"):
        index(dataclasses.replace(longer, moment_seconds=2.0), encoder=AnyLength())
    with pytest.raises(SearchIndexError, match="its moments do not keep to shots, got --shots"):
        index(dataclasses.replace(longer, shots=True), encoder=AnyLength())


class AnyLength(ColourEncoder):
    """Embeds moments of any number of frames."""

    def embed_video(self, pixels_BTCHW: torch.Tensor) -> Embedding:
        frames = pixels_BTCHW.shape[1]
        parts = [super(AnyLength, self).embed_video(pixels_BTCHW[:, t : t + 2]) for t in range(0, frames, 2)]
        return self._joined(parts)

    def embed_audio(self, windows_BTN: torch.Tensor) -> Embedding:
        frames = windows_BTN.shape[1]
        parts = [super(AnyLength, self).embed_audio(windows_BTN[:, t : t + 2]) for t in range(0, frames, 2)]
        return self._joined(parts)

    def _joined(self, parts: list[Embedding]) -> Embedding:
        frames_BTE = torch.cat([part.frames_BTE for part in parts], dim=1)
        return Embedding(torch.nn.functional.normalize(frames_BTE.mean(1), dim=-1), frames_BTE)


def test_indexing_memory_does_not_grow_with_the_length_of_a_video(tmp_path: Path) -> None:
    measured = []
    # The first fills the chunks that are in flight at once, however fast the model is.
    for seconds in (2400, 7200):
        long_video(tmp_path / str(seconds) / "a.mp4", seconds)
        command = [sys.executable, "-m", "tests.support.long_indexing", str(tmp_path / str(seconds))]
        # Freed memory is returned at once, so the peak is what was in use, not what the allocator kept.
        environment = {**ENVIRONMENT, "MALLOC_MMAP_THRESHOLD_": "1000000"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
        measured.append(json.loads(done.stdout.splitlines()[-1]))
    # Four seconds each, one after the other; the last frame lasts a second longer.
    assert [run["moments"] for run in measured] == [601, 1801]
    # The frames that the longer one has more would take 59 MB if they were held, their sound 154 MB.
    assert 1200 * NANO.frames * 3 * NANO.height * NANO.width > 58e6
    assert 1200 * NANO.frames * NANO.window_samples * 2 > 153e6
    assert measured[1]["peak"] - measured[0]["peak"] < 30e6
