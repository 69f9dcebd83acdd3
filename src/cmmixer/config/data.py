"""Settings of what there is to learn from: films that are made, films and sounds that are read, stores that are prepared.

Where the work of many films is done: in processes of this machine, or on a Ray cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

from cmmixer.config.base import at_least, one_of, within
from cmmixer.config.clip import PRESETS, ClipOptions
from cmmixer.errors import SettingsError

ENGINES = ("local", "ray")


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """Which machines do the work.

    Attributes:
        engine: local, processes of this machine; ray, actors of a Ray cluster
        ray_address: of the cluster this machine is in, HOST:PORT or auto; default: $RAY_ADDRESS, or one started here
        ray_actors: how many; 0: as many as the cluster has room for
        ray_cpus: processors of an actor
        ray_gpus: GPUs of an actor; half a GPU is 0.5
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
            raise SettingsError(f"--ray_address {self.ray_address}: is of --engine ray; got --engine {self.engine}")


DIFFICULTIES = ("easy", "medium", "hard")


@dataclass(frozen=True, kw_only=True)
class SynthesizeSettings:
    """Write synthetic films in which the picture causes the sound.

    Attributes:
        clips: how many films
        out: folder to write them to
        seed: films of different seeds share nothing
        difficulty: easy, medium or hard
        twins: films 2k and 2k + 1 are the same but for their timing
        twin_ahead_seconds: all that happens in a second twin happens so much earlier; left out, its timing is drawn anew
        seconds: length of a film
        size: pixels of a side
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
                raise SettingsError(
                    f"--twin_ahead_seconds: got {self.twin_ahead_seconds} without --twins, which it is about; give both"
                )


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which films, and how they are cut into clips.

    Attributes:
        data: a folder of films, split/{video,audio}/ pairs, a Kinetics list, a CSV or JSONL manifest, or a clip store,
            which may be s3://BUCKET/NAME
        split: take only this split, where the data has a `split` column or folder
        stride_seconds: a clip starts every so many seconds of a film; default: the clip's length
        file_seconds: longest time spent on one film; then it is skipped and listed
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
    """Decode films once into a clip store that training reads fast.

    Attributes:
        out: folder of the clip store, or s3://BUCKET/NAME
        preset: whose picture geometry to prepare for
        jpeg_quality: of the stored frames, 1 to 100
        silence_dbfs: films whose loudest window stays below this are listed as silent
        workers: processes; 0 takes every core, or those of an actor
        overwrite: start anew in a folder that holds a store; without it the work there is continued
    """

    out: str
    preset: str = "base"
    jpeg_quality: int = 92
    silence_dbfs: float = -60.0
    workers: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        DataSettings.__post_init__(self)
        ClusterSettings.__post_init__(self)
        one_of("preset", self.preset, PRESETS)
        within("jpeg_quality", self.jpeg_quality, 1, 100)
        at_least("workers", self.workers, 0)
