"""Clip stores and vectors on a real S3-compatible server: the same rows as on a disk, and nothing lost after kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import lance
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from cmmixer.config import EmbedSettings
from cmmixer.config.data import DataSettings
from cmmixer.data.dataset import open_clips
from cmmixer.data.loader import make_loader
from cmmixer.data.prepare import prepare
from cmmixer.data.store import LOCK, ClipStore, open_table
from cmmixer.embedding.embed import embed
from cmmixer.embedding.read import read_vectors
from cmmixer.errors import StoreError
from cmmixer.storage import s3 as s3_module
from cmmixer.storage.folder import open_folder
from tests.support.object_storage import NOWHERE
from tests.support.small_runs import PICO
from tests.support.small_stores import prepare_settings

SCRIPT = """
import sys
from cmmixer.config import PrepareSettings
from cmmixer.data import prepare
prepare.COMMIT_SECONDS = 0.0
prepare.prepare(PrepareSettings(data=sys.argv[1], out=sys.argv[2], workers=1, frames=2, height=32, width=32,
    clip_seconds=1.0, window_seconds=0.25, sample_rate_hz=8000))
"""


def rows(place: Path | str) -> pa.Table:
    return open_table(open_folder(place)).to_table(scan_in_order=True, blob_handling="all_binary")


def test_a_store_on_s3_holds_what_one_on_a_disk_does(mixed_videos: Path, tmp_path: Path, s3: str) -> None:
    here = prepare(prepare_settings(mixed_videos, tmp_path / "store"))
    there = prepare(prepare_settings(mixed_videos, s3))
    assert rows(s3).equals(rows(tmp_path / "store"))
    assert there.as_json() | {"store": "-", "seconds": 0} == here.as_json() | {"store": "-", "seconds": 0}
    assert open_folder(s3).read_text("skipped.txt") == (tmp_path / "store/skipped.txt").read_text()
    again = prepare(prepare_settings(mixed_videos, s3))
    assert (again.clips, again.clips_before, list(again.skips)) == (4, 4, list(there.skips))
    with pytest.raises(StoreError, match="jpeg_quality: got 50, holds 92"):
        prepare(prepare_settings(mixed_videos, s3, jpeg_quality=50))
    prepare(prepare_settings(mixed_videos, s3, jpeg_quality=50, overwrite=True))
    assert (len(rows(s3)), ClipStore.open(s3).metadata.jpeg_quality) == (4, 50)


def test_training_reads_it_in_any_worker(videos: Path, tmp_path: Path, s3: str) -> None:
    prepare(prepare_settings(videos / "a", tmp_path / "store"))
    prepare(prepare_settings(videos / "a", s3))
    batches = [
        list(make_loader(open_clips(DataSettings(data=str(place)), PICO), batch_size=5, seed=4, num_workers=workers))
        for place, workers in ((tmp_path / "store", 0), (s3, 1))
    ]
    assert [batch.ids for batch in batches[1]] == [batch.ids for batch in batches[0]]
    assert all((a.video_BTCHW == b.video_BTCHW).all() for a, b in zip(*batches, strict=True))
    with pytest.raises(StoreError, match=r"/none: no clip store there \(store\.json is missing\)"):
        open_clips(DataSettings(data=f"{s3}/none"), PICO)


def test_killed_and_run_again_it_is_as_if_never_killed(
    videos: Path, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(prepare_settings(videos, tmp_path / "store"))
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(videos), s3])
    folder, deadline = open_folder(s3), time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if folder.has_folder("clips.lance/_versions") and open_table(folder).version > 4:
            break
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < len(rows(s3)) < 30
    assert folder.has(LOCK)
    with pytest.raises(StoreError, match="its `prepare` was stopped; run the same command again"):
        open_clips(DataSettings(data=s3), PICO)
    monkeypatch.setattr(s3_module, "LIFE_SECONDS", 2.0)
    prepare(prepare_settings(videos, s3))
    assert rows(s3).equals(rows(tmp_path / "store"))
    assert not folder.has(LOCK)


def test_vectors_on_s3_are_those_of_a_disk(videos: Path, model: Path, tmp_path: Path, s3: str) -> None:
    def run(out: str) -> None:
        embed(EmbedSettings(model=str(model), data=str(videos / "a"), out=out, workers=1, device="cpu"))

    run(str(tmp_path / "v.parquet"))
    expected = read_vectors(tmp_path / "v.parquet")
    for place in (str(tmp_path / "folder"), f"{s3}/vectors"):
        run(place)
        assert read_vectors(place).equals(expected)
    run(f"{s3}/v.parquet")
    endpoint = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    files = pyarrow.fs.S3FileSystem(
        access_key="test", secret_key="test", region="us-east-1", endpoint_override=endpoint, scheme="http"
    )
    assert pq.read_table(f"{s3.removeprefix('s3://')}/v.parquet", filesystem=files).equals(expected)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["prepare", "--data", "{videos}", "--out", "{s3}"], f"{NOWHERE} does not answer; check AWS_ENDPOINT_URL"),
        (["pretrain", "--data", "{s3}", "--preset", "nano"], f"{NOWHERE} does not answer; check AWS_ENDPOINT_URL"),
        (["embed", "--model", "{model}", "--data", "{videos}", "--out", "{s3}"], f"{NOWHERE} does not answer; check"),
        (["embed", "--model", "{model}", "--data", "{s3}", "--out", "x"], "--data: got {s3}, expected a path on this"),
        (
            ["search", "q.mp4", "--index", "{s3}"],
            "--index: got {s3}, expected a path on this machine; an index must be on",
        ),
        (
            ["finetune", "--data", "x", "--out", "{s3}"],
            "--out: got {s3}, expected a path on this machine; a run must be",
        ),
    ],
)
def test_the_command_line_says_what_is_wrong_in_one_line(
    videos: Path, model: Path, s3: str, tmp_path: Path, command: list[str], message: str
) -> None:
    places = {"videos": str(videos), "model": str(model), "s3": s3}
    arguments = [sys.executable, "-m", "cmmixer", *(word.format(**places) for word in command)]
    environ = {**os.environ, "AWS_ENDPOINT_URL": NOWHERE}
    done = subprocess.run(arguments, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("cmmixer:")]
    assert message.format(**places) in line
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_two_machines_that_write_one_table_at_once_lose_nothing(s3: str) -> None:
    # What `--engine ray` and the lease stand on: this server refuses the second of two commits of one version.
    options = open_folder(s3).storage_options
    lance.write_dataset(pa.table({"a": [0]}), f"{s3}/t.lance", storage_options=options)
    first, second = (lance.dataset(f"{s3}/t.lance", storage_options=options) for _ in range(2))
    for number, table in enumerate((first, second), start=1):
        lance.write_dataset(pa.table({"a": [number]}), table, mode="append", storage_options=options)
    found = lance.dataset(f"{s3}/t.lance", storage_options=options).to_table()["a"].to_pylist()
    assert found == [0, 1, 2]
