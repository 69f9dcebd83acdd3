"""Settings of the data: synthesizing videos, reading media files, preparing clip stores, and the machines that do the work."""

from __future__ import annotations

from dataclasses import dataclass

from cmmixer.config.base import at_least, one_of, within
from cmmixer.config.clip import PRESETS, ClipOptions
from cmmixer.errors import SettingsError

ENGINES = ("local", "ray")

# Root mean square over a window. Audio below this counts as none.
SILENCE_DBFS = -60.0


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """Which machines do the work.

    Attributes:
        engine: local, processes of this machine; ray, actors of a Ray cluster
        ray_address: address of the cluster, HOST:PORT or auto; default: $RAY_ADDRESS, or a cluster started on this machine
        ray_actors: number of actors; 0: as many as fit on the cluster
        ray_cpus: CPUs per actor
        ray_gpus: GPUs per actor; half a GPU is 0.5
    """

    engine: str = "local"
    ray_address: str | None = None
    ray_actors: int = 0
    ray_cpus: int = 1
    ray_gpus: float = 0.0

    def __post_init__(self) -> None:
        one_of("engine", self.engine, ENGINES)
        at_least("ray_actors", self.ray_actors, 0)
        at_least("ray_cpus", self.ray_cpus, 1)
        within("ray_gpus", self.ray_gpus, 0.0, 64.0)
        if self.ray_address is not None and self.engine != "ray":
            raise SettingsError(
                f"--ray_address: got {self.ray_address} with --engine {self.engine}; it needs --engine ray"
            )


DIFFICULTIES = ("easy", "medium", "hard")


@dataclass(frozen=True, kw_only=True)
class SynthesizeSettings:
    """Write synthetic videos in which what is seen causes what is heard.

    Attributes:
        clips: number of videos
        out: folder to write them to
        seed: videos of different seeds share nothing
        difficulty: easy, medium or hard
        twins: make videos 2k and 2k + 1 the same except for their timing
        twin_ahead_seconds: shift everything in the second twin earlier by this much; default: draw its timing again
        seconds: length of a video
        size: width and height in pixels
        fps: frames per second
        workers: processes; 0 takes every core
    """

    clips: int
    out: str
    seed: int = 0
    difficulty: str = "easy"
    twins: bool = False
    twin_ahead_seconds: float | None = None
    seconds: float = 4.0
    size: int = 96
    fps: float = 12.5
    workers: int = 0

    def __post_init__(self) -> None:
        at_least("clips", self.clips, 1)
        at_least("seed", self.seed, 0)
        at_least("workers", self.workers, 0)
        one_of("difficulty", self.difficulty, DIFFICULTIES)
        within("seconds", self.seconds, 0.5, 600.0)
        within("size", self.size, 16, 2048)
        within("fps", self.fps, 1.0, 120.0)
        if self.twin_ahead_seconds is not None:
            within("twin_ahead_seconds", self.twin_ahead_seconds, 0.0, 60.0, open_low=True)
            if not self.twins:
                raise SettingsError(f"--twin_ahead_seconds: got {self.twin_ahead_seconds} without --twins; give both")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which videos, and how they are cut into clips.

    Attributes:
        data: a folder of videos, split/{video,audio}/ pairs, a Kinetics list, a CSV or JSONL manifest, or a clip store,
            which may be s3://BUCKET/NAME
        split: use only this split, if the data has a `split` column or folder
        stride_seconds: distance between the starts of two clips of a video; default: the clip's length
        file_seconds: time limit for one video; beyond it, the video is skipped and listed
    """

    data: str
    split: str | None = None
    stride_seconds: float | None = None
    file_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.stride_seconds is not None:
            within("stride_seconds", self.stride_seconds, 0.0, float("inf"), open_low=True, open_high=True)
        within("file_seconds", self.file_seconds, 0.0, float("inf"), open_low=True)


@dataclass(frozen=True, kw_only=True)
class PrepareSettings(DataSettings, ClipOptions, ClusterSettings):
    """Decode videos once into a clip store that training reads fast.

    Attributes:
        out: folder of the clip store, or s3://BUCKET/NAME
        preset: prepare clips of this preset's geometry
        jpeg_quality: quality of the stored frames, 1 to 100
        silence_dbfs: videos whose loudest audio window is below this are listed as silent
        workers: processes; 0 takes every core, or the CPUs of an actor
        overwrite: replace the store in the folder; without it an unfinished one is continued
    """

    out: str
    preset: str = "base"
    jpeg_quality: int = 92
    silence_dbfs: float = SILENCE_DBFS
    workers: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        DataSettings.__post_init__(self)
        ClusterSettings.__post_init__(self)
        one_of("preset", self.preset, PRESETS)
        within("jpeg_quality", self.jpeg_quality, 1, 100)
        at_least("workers", self.workers, 0)
