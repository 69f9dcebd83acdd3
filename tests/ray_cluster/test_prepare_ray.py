"""prepare and embed on a real Ray: the rows of a single machine, whether an actor or the whole job is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lance
import numpy as np
import psutil
import pytest

from cmmixer.config import EmbedSettings
from cmmixer.data import prepare_ray as prepare_ray_module
from cmmixer.data.prepare import prepare
from cmmixer.embedding import embed_ray as embed_ray_module
from cmmixer.embedding.embed import embed
from cmmixer.embedding.read import read_vectors
from cmmixer.errors import SettingsError, StoreError
from cmmixer.storage.folder import open_folder
from tests.ray_cluster.conftest import one_actor_killed
from tests.support.small_stores import prepare_settings, table_rows
from tests.support.small_videos import video

# Ray's own modules warn of each other's old names; those warnings must not fail the tests.
pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.")
ON_RAY: dict[str, Any] = {"engine": "ray", "ray_actors": 2}
SCRIPT = """
import sys
from cmmixer.config import PrepareSettings
from cmmixer.data import prepare, prepare_ray
prepare.COMMIT_SECONDS = 0.0
prepare_ray.VIDEOS_PER_PART = 1
prepare.prepare(PrepareSettings(data=sys.argv[1], out=sys.argv[2], workers=1, frames=2, height=32, width=32,
    clip_seconds=1.0, window_seconds=0.25, sample_rate_hz=8000, engine="ray", ray_actors=2))
"""


def written_files(folder: Path, table: str = "clips.lance") -> set[str]:
    data = folder / table / "data"
    return {path.name for path in data.iterdir()} if data.is_dir() else set()


def committed_files(folder: Path, table: str = "clips.lance") -> set[str]:
    fragments = lance.dataset(str(folder / table)).get_fragments()
    return {Path(file.path).name for fragment in fragments for file in fragment.data_files()}


class TestPrepare:
    def test_the_store_is_that_of_a_single_machine_with_every_kind_of_unusable_file(
        self, ray_here: Any, mixed_videos: Path, tmp_path: Path, s3: str
    ) -> None:
        here = prepare(prepare_settings(mixed_videos, tmp_path / "here"))
        there = prepare(prepare_settings(mixed_videos, s3, **ON_RAY))
        assert there.as_json() | {"store": "-", "seconds": 0} == here.as_json() | {"store": "-", "seconds": 0}
        options = open_folder(s3).storage_options
        found = lance.dataset(f"{s3}/clips.lance", storage_options=options).to_table(
            scan_in_order=True, blob_handling="all_binary"
        )
        assert found.equals(table_rows(tmp_path / "here"))
        assert open_folder(s3).read_text("skipped.txt") == (tmp_path / "here/skipped.txt").read_text()

    def test_duplicates_are_stored_once_within_a_part_and_across_parts(
        self, ray_here: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole, other = video(tmp_path / "made/whole.mp4", seconds=3.0), video(tmp_path / "made/other.mp4", seed=7)
        (tmp_path / "made/copy.mp4").write_bytes(other.read_bytes())
        lines = [f"{whole},0,2", f"{whole},1,3", f"{whole},1,2", f"{other},,", f"{tmp_path}/made/copy.mp4,,"]
        (tmp_path / "m.csv").write_text("path,start_seconds,end_seconds\n" + "\n".join(lines))
        prepare(prepare_settings(tmp_path / "m.csv", tmp_path / "here"))
        assert len(table_rows(tmp_path / "here")) == 5
        for most in (1, 5):
            monkeypatch.setattr(prepare_ray_module, "VIDEOS_PER_PART", most)
            out = tmp_path / f"ray{most}"
            prepare(prepare_settings(tmp_path / "m.csv", out, engine="ray", ray_actors=1))
            assert table_rows(out).equals(table_rows(tmp_path / "here"))
            assert written_files(out) == committed_files(out)  # files of rows that were written again are removed

    def test_a_killed_actor_loses_and_doubles_nothing(
        self, ray_here: Any, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prepare(prepare_settings(videos, tmp_path / "here"))
        monkeypatch.setattr(prepare_ray_module, "VIDEOS_PER_PART", 1)
        out = tmp_path / "ray"
        with one_actor_killed(when=lambda: len(written_files(out)) >= 2) as killed:
            prepare(prepare_settings(videos, out, **ON_RAY))
        assert len(killed) == 1
        assert table_rows(out).equals(table_rows(tmp_path / "here"))
        assert written_files(out) == committed_files(out)

    def test_a_killed_job_resumes_and_leaves_no_process(self, ray_here: Any, videos: Path, tmp_path: Path) -> None:
        prepare(prepare_settings(videos, tmp_path / "here"))
        out = tmp_path / "ray"
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(videos), str(out)])
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline and versions(out) < 4:
            time.sleep(0.002)
        # Ray's two agents end half a minute later; the processes that read videos and write rows end at once.
        started = psutil.Process(process.pid).children(recursive=True)
        children = [child for child in started if not child.name().endswith("Agent")]
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        _, alive = psutil.wait_procs(children, timeout=20)
        assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []
        half = set(table_rows(out)["entry"].to_pylist())
        assert 0 < len(half) < 12
        decoded: list[str] = []
        with pytest.MonkeyPatch().context() as patch:
            real = prepare_ray_module.decode_on_ray

            def noted(entries: Any, *rest: Any) -> Any:
                decoded.extend(entry.key for entry in entries)
                return real(entries, *rest)

            patch.setattr(prepare_ray_module, "decode_on_ray", noted)
            prepare(prepare_settings(videos, out, **ON_RAY))
        assert set(decoded) == set(table_rows(tmp_path / "here")["entry"].to_pylist()) - half
        assert table_rows(out).equals(table_rows(tmp_path / "here"))


def versions(out: Path) -> int:
    folder = out / "clips.lance/_versions"
    return len(list(folder.glob("*.manifest"))) if folder.is_dir() else 0


class TestEmbed:
    def settings(self, model: Path, data: Path, out: Path, **changes: Any) -> EmbedSettings:
        common = {"model": str(model), "data": str(data), "out": str(out), "workers": 1, "device": "cpu"}
        return EmbedSettings(**{**common, **changes})

    def test_the_vectors_are_those_of_a_single_machine_though_an_actor_is_killed(
        self, ray_here: Any, videos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = tmp_path / "data"
        data.mkdir()
        for path in videos.rglob("*.mp4"):
            (data / path.name).symlink_to(path)
        (data / "broken.mp4").write_bytes(b"not a video")
        (data / "notes.txt").write_text("notes")
        here = embed(self.settings(model, data, tmp_path / "v.parquet"))
        monkeypatch.setattr(embed_ray_module, "VIDEOS_PER_PART", 1)
        out = tmp_path / "vectors"
        with one_actor_killed(when=lambda: len(written_files(out, "vectors.lance")) >= 2) as killed:
            there = embed(self.settings(model, data, out, **ON_RAY))
        assert len(killed) == 1
        assert (there.videos, there.moments, there.skips.counts) == (here.videos, here.moments, here.skips.counts)
        assert (here.videos, here.skips.counts) == (12, {"unreadable": 1, "not-media": 1})
        one, other = read_vectors(tmp_path / "v.parquet"), read_vectors(out)
        about = [name for name in one.column_names if name not in ("video", "audio")]
        assert other.select(about).equals(one.select(about))
        for modality in ("video", "audio"):
            vectors_RE = [np.array(table[modality].to_pylist()) for table in (one, other)]
            np.testing.assert_allclose(*vectors_RE, atol=1e-6)
        assert written_files(out, "vectors.lance") == committed_files(out, "vectors.lance")
        again = embed(self.settings(model, data, out))  # the local engine resumes what a cluster began
        assert (again.videos, again.moments) == (12, here.moments)
        assert read_vectors(out).equals(other)

    def test_contradictory_settings_are_refused(self, ray_here: Any, videos: Path, model: Path, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="--engine ray writes a table from many machines; give a folder"):
            self.settings(model, videos, tmp_path / "v.parquet", **ON_RAY)
        with pytest.raises(
            SettingsError, match="an actor of a cluster has only the GPUs it requests; add --ray_gpus 1"
        ):
            self.settings(model, videos, tmp_path / "v", device="cuda", **ON_RAY)
        embed(self.settings(model, videos / "a", tmp_path / "v"))
        with pytest.raises(StoreError, match="holds vectors made differently: vectors: got int8, holds fp32"):
            embed(self.settings(model, videos / "a", tmp_path / "v", vectors="int8"))
        (tmp_path / "other").mkdir()
        (tmp_path / "other/thesis.tex").write_text("x")
        with pytest.raises(StoreError, match=r"holds 'thesis\.tex', expected only vectors"):
            embed(self.settings(model, videos / "a", tmp_path / "other"))
