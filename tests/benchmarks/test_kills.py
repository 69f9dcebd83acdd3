"""The benchmark of SIGKILL: what counts as a difference or as damage, and how kills are summarized; nothing is killed here."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.kills import contents
from benchmarks.kills.contents import NOTHING, VECTOR_TOLERANCE, Damage
from benchmarks.kills.jobs import ALL, JOBS, WORKER, Workspace
from benchmarks.kills.table import _progress, _table_row
from tests.support.small_runs import PICO, untrained_run


def _vectors(path: Path, *, name: str = "a", value: float = 0.5) -> Path:
    columns = {"path": [name, "b"], "video": [[value, 0.1], None], "audio": [[0.2, 0.3], [0.4, 0.5]]}
    pq.write_table(pa.table(columns), path)
    return path


def test_vectors_may_differ_by_the_tolerance_only(tmp_path: Path) -> None:
    truth = _vectors(tmp_path / "truth.parquet")
    close = _vectors(tmp_path / "close.parquet", value=0.5 + 0.5 * VECTOR_TOLERANCE)
    assert contents.differences_of_vectors(truth, close) == []
    assert contents.inspect_vectors(truth, close) == "the whole file"
    far = _vectors(tmp_path / "far.parquet", value=0.5 + 4 * VECTOR_TOLERANCE)
    assert contents.differences_of_vectors(truth, far) == ["vectors differ by up to 4e-05"]
    with pytest.raises(Damage, match="vectors differ by up to 4e-05"):
        contents.inspect_vectors(truth, far)
    renamed = _vectors(tmp_path / "renamed.parquet", name="c")
    assert contents.differences_of_vectors(truth, renamed) == ["rows differ"]


def test_a_vector_in_one_file_only_is_a_difference() -> None:
    mine, theirs = [{"video": None}], [{"video": [0.1]}]
    assert contents._vector_differences(mine, theirs) == ["a vector of video is in one of them only"]
    assert contents._vector_differences(mine, mine) == []


def test_nothing_written_yet_is_no_damage(tmp_path: Path) -> None:
    for job in JOBS.values():
        assert job.inspect(tmp_path / "truth", tmp_path / "absent") == NOTHING


def test_duplicates_are_damage() -> None:
    contents._check_unique(["a", "b"], "clips")
    with pytest.raises(Damage, match=r"duplicate clips: \['a'\]"):
        contents._check_unique(["a", "b", "a"], "clips")


def test_small_files_are_compared_without_the_folder_name(tmp_path: Path) -> None:
    for name, text in (("one", "log of {}"), ("two", "log of {}"), ("three", "another log")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "latest").write_text(text.format(tmp_path / name))
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    assert contents._text_differences(one, two, "latest", "absent") == []
    assert contents._text_differences(one, three, "latest") == ["latest differs"]


def test_leftovers_are_temporary_files_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / f"{contents.TEMPORARY}x").touch()
    (tmp_path / "kept").touch()
    assert contents.leftovers(tmp_path) == [f"{contents.TEMPORARY}x"]


def test_damaged_checkpoint_is_found(tmp_path: Path) -> None:
    run = untrained_run(tmp_path / "run", PICO)
    whole = shutil.copytree(run, tmp_path / "copy")
    weights = next(whole.glob("checkpoints/*/weights.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(Exception, match="sha256"):
        contents.inspect_run(run, whole)


def test_progress_counts_kills_before_the_first_commit() -> None:
    def kills(*on_disk: str) -> list[dict[str, Any]]:
        return [{"on_disk": text} for text in on_disk]

    assert _progress(kills(NOTHING, NOTHING)) == "nothing: 2"
    assert _progress(kills(NOTHING, "3 of 40 clips", "12 of 40 clips")) == "nothing: 1, 3 to 12 of 40 clips: 2"
    assert _progress(kills("step 4 of 20", "step 18 of 20")) == "4 to 18 of 20 steps: 2"


def test_table_row_counts_targets_and_equal_results() -> None:
    kills = [
        {"target": WORKER, "exit_code": 0, "problems": [], "on_disk": NOTHING, "orphans_seconds": 9.0},
        {"target": WORKER, "exit_code": 1, "problems": ["latest differs"], "on_disk": NOTHING, "orphans_seconds": 9.0},
        {"target": ALL, "exit_code": -9, "problems": [], "on_disk": "2 of 8 files", "orphans_seconds": 0.25},
    ]
    assert _table_row("`index`", {"kills": kills}) == (
        "| `index` | 2 a worker, 1 all | 2 to 2 of 8 files: 1 | 1 of 2 | **2 of 3** | 0.2 s |"
    )


def test_jobs_read_the_output_of_uninterrupted_jobs(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert workspace.truth("embed") == tmp_path / "embed" / "truth" / "out.parquet"
    assert str(workspace.truth("prepare")) in JOBS["pretrain"].arguments(workspace)
    assert all(job.arguments(workspace)[-1] in ("--out", "--index") for job in JOBS.values())
