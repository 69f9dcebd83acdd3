"""Settings of `cmmixer serve`.

What `cmmixer doctor` takes.

What `cmmixer dub` takes.

What `cmmixer export` takes.

Settings of `cmmixer probe`.

Settings of the quick start.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from cmmixer.config.base import INDEX_ELSEWHERE, at_least, one_of, refuse_remote, within
from cmmixer.config.training import DEVICES, AugmentSettings
from cmmixer.errors import SettingsError

_SHORTEST_TOKEN = 16


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """A page and an HTTP service to search an index with, to listen, and to index more folders.

    Attributes:
        index: folder of the index
        model: run that made the index, if it has moved since
        host: address to listen at; any but a loopback address needs --token
        port: port to listen at; 0 takes a free one
        token: secret that every request must bring, at least 16 characters; the page asks for it
        token_file: file that holds the token, so that it does not stand in the list of processes
        roots: folders that may be indexed from the page, separated by `:`; default: the folders that the index was made from
        cache: folder for thumbnails, waveforms and versions of files that browsers do not play; default: `previews` in the index
        cache_mb: most that this folder may hold; what was not used for longest goes first
        max_upload_mb: largest file to search with
        upload_seconds: longest time an upload may take
        query_seconds: longest film or sound to search with, in seconds of its own time
        file_seconds: longest time spent on decoding one file
        convert_seconds: longest time spent on a version of a file that browsers do not play; what is made by then is played
        dub_seconds: longest time spent on writing a film with its new sound
        memory_mb: most memory of a decoder process
        queries: how many uploaded files are kept at a time; the oldest goes first
        query_minutes: how long an uploaded file is kept after it was last used
        searches: how many uploads are embedded at the same time
        waiting: how many requests may wait for that; more are told to come back
        workers: decoder processes of previews
        device: auto, cpu or cuda
    """

    index: str
    model: str | None = None
    host: str = "127.0.0.1"
    port: int = 8765
    token: str | None = None
    token_file: str | None = None
    roots: str | None = None
    cache: str | None = None
    cache_mb: int = 2000
    max_upload_mb: int = 512
    upload_seconds: float = 300.0
    query_seconds: float = 1200.0
    file_seconds: float = 60.0
    convert_seconds: float = 30.0
    dub_seconds: float = 600.0
    memory_mb: int = 4000
    queries: int = 100
    query_minutes: float = 60.0
    searches: int = 2
    waiting: int = 256
    workers: int = 2
    device: str = "auto"

    def __post_init__(self) -> None:
        refuse_remote("index", self.index, INDEX_ELSEWHERE)
        within("port", self.port, 0, 65535)
        for name in ("cache_mb", "max_upload_mb", "queries", "searches", "workers"):
            at_least(name, getattr(self, name), 1)
        at_least("waiting", self.waiting, 0)
        at_least("memory_mb", self.memory_mb, 500)
        for name in (
            "upload_seconds",
            "query_seconds",
            "file_seconds",
            "convert_seconds",
            "dub_seconds",
            "query_minutes",
        ):
            within(name, getattr(self, name), 0.0, float("inf"), open_low=True)
        one_of("device", self.device, DEVICES)
        if self.token is not None and self.token_file is not None:
            raise SettingsError("--token and --token_file: got both, expected one of them")
        if self.token is not None:
            check_token(self.token, "--token")
        if not self.is_loopback and self.token is None and self.token_file is None:
            raise SettingsError(
                f"--host: got {self.host}, which other machines can reach; give --token or --token_file too, or listen at 127.0.0.1"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def check_token(token: str, where: str) -> str:
    """A token that a header can carry and that is not guessed in an afternoon.

    Raises:
        SettingsError: it is too short or holds something else than visible ASCII characters.
    """
    if len(token) < _SHORTEST_TOKEN:
        raise SettingsError(f"{where}: got {len(token)} characters, expected {_SHORTEST_TOKEN} or more")
    if not all("!" <= character <= "~" for character in token):
        raise SettingsError(f"{where}: got a character that no header can carry, expected visible ASCII without spaces")
    return token


@dataclass(frozen=True, kw_only=True)
class DoctorSettings:
    """Tell what this machine has, what works on it and what does not, and what to do.

    Attributes:
        data: also look into every file of this folder, list or manifest
        index: also check this index and its model
        model: run that made the index, if it has moved since
        file_seconds: longest time spent on looking into one file
        workers: decoder processes; 0 takes every core
    """

    data: str | None = None
    index: str | None = None
    model: str | None = None
    file_seconds: float = 20.0
    workers: int = 0

    def __post_init__(self) -> None:
        within("file_seconds", self.file_seconds, 0.0, float("inf"), open_low=True)
        at_least("workers", self.workers, 0)


@dataclass(frozen=True, kw_only=True)
class DubSettings:
    """Lay a sound under a film: pictures copied untouched, loudness matched, ends faded.

    Attributes:
        film: the film; its pictures are copied, not encoded again
        sound: a sound, or a film whose sound is taken
        out: film to write; .mp4 and .mkv get AAC, .mov gets PCM
        start: second of the sound that is laid at `--at`
        at: second of the film where the sound begins
        loudness_lufs: integrated loudness of the result; -23 is EBU R128, web platforms often ask for -14 to -16
        fade_in_seconds: length of the fade at the sound's beginning
        fade_out_seconds: length of the fade at its end, or at the film's
        duck: keep the film's own sound; the new one gives way while it is heard
        file_seconds: longest time spent on it all
    """

    film: str
    sound: str
    out: str
    start: float = 0.0
    at: float = 0.0
    loudness_lufs: float = -23.0
    fade_in_seconds: float = 0.02
    fade_out_seconds: float = 1.0
    duck: bool = False
    file_seconds: float = 7200.0

    def __post_init__(self) -> None:
        for name in ("start", "at", "fade_in_seconds", "fade_out_seconds"):
            within(name, getattr(self, name), 0.0, float("inf"), open_high=True)
        within("loudness_lufs", self.loudness_lufs, -60.0, -5.0)
        within("file_seconds", self.file_seconds, 0.0, float("inf"), open_low=True)


EXPORT_FORMATS = ("onnx",)


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Write both towers as files that run without torch, checked against it.

    Attributes:
        model: run or checkpoint of finetune
        out: new folder for video.onnx, audio.onnx and export.json
        format: onnx
        seed: of the clips that the check is made with
    """

    model: str
    out: str
    format: str = "onnx"
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("format", self.format, EXPORT_FORMATS)
        at_least("seed", self.seed, 0)


TASKS = ("audio", "video", "audiovisual")

MODES = ("linear", "finetune")

SHORT_FILES = ("refuse", "use", "skip")


@dataclass(frozen=True, kw_only=True)
class ProbeSettings(AugmentSettings):
    """What a run's encoder tells about labels: a classifier on it, against untrained towers and plain statistics.

    Attributes:
        model: run or checkpoint of pretrain or finetune
        data: labelled films or sounds, in any layout that names labels
        task: audio, video, or audiovisual (both)
        mode: linear (the towers stay as they are) or finetune (they are trained on, which takes longer)
        label: column of the class; several classes of a file are separated by `;`
        fold: column of the fold; where the data has none, folds are made
        folds: how many are made
        source: column of the source film; no source may be in two folds
        clips: clips of each file, evenly from its start to its end, that are averaged
        short: files shorter than a clip: refuse (an error before anything is learnt), use (each as one clip of its own length, its
            frames closer together and silence around its sound) or skip (they are listed)
        out: folder for the figures, the confusion picture, and the classifiers of finetune
        epochs: of finetune; how many times every clip of the training files is seen
        batch_size: of finetune
        lr: of finetune, its largest step size
        warmup_epochs: of finetune
        weight_decay: of finetune
        sense_dropout: of finetune on both senses; probability that a clip is learnt from one of them alone
        workers: decoder processes; 0 takes every core
        file_seconds: longest time spent on one file; then it is skipped and listed
        bootstrap: resamplings of the 95 % intervals
        seed: of the folds, the untrained towers, the training and the bootstrap
        device: auto, cpu or cuda
        overwrite: train anew in a folder that holds classifiers; without it they are kept, or finished
    """

    model: str
    data: str
    task: str = "audiovisual"
    mode: str = "linear"
    label: str = "label"
    fold: str = "fold"
    folds: int = 5
    source: str = "source"
    clips: int = 10
    short: str = "refuse"
    out: str = "runs/probe"
    epochs: int = 5
    batch_size: int = 32
    lr: float = 3e-4
    warmup_epochs: float = 0.5
    weight_decay: float = 0.05
    sense_dropout: float = 0.0
    workers: int = 0
    file_seconds: float = 60.0
    bootstrap: int = 1000
    seed: int = 0
    device: str = "auto"
    overwrite: bool = False

    def __post_init__(self) -> None:
        AugmentSettings.__post_init__(self)
        one_of("task", self.task, TASKS)
        one_of("mode", self.mode, MODES)
        one_of("short", self.short, SHORT_FILES)
        at_least("folds", self.folds, 2)
        for name in ("clips", "epochs", "batch_size", "bootstrap"):
            at_least(name, getattr(self, name), 1)
        for name in ("warmup_epochs", "weight_decay", "workers", "seed"):
            at_least(name, getattr(self, name), 0)
        within("sense_dropout", self.sense_dropout, 0.0, 1.0)
        for name in ("lr", "file_seconds"):
            within(name, getattr(self, name), 0.0, float("inf"), open_low=True)
        one_of("device", self.device, DEVICES)


@dataclass(frozen=True, kw_only=True)
class QuickstartSettings:
    """Films, pre-training, fine-tuning, evaluation, index, search and a report, in one go.

    Attributes:
        data: one's own films instead of synthetic ones; a `split` column train/gallery is honoured
        out: folder of the runs and the report
        scale: how much of everything; 1 is the ten-minute run on two cores, less is for a quick look
        seed: of everything drawn at random
        workers: processes for making and decoding films; 0 takes every core
        device: auto, cpu or cuda
        overwrite: start anew; without it finished steps are kept and the rest is done
    """

    data: str | None = None
    out: str = "runs/quickstart"
    scale: float = 1.0
    seed: int = 0
    workers: int = 0
    device: str = "auto"
    overwrite: bool = False

    def __post_init__(self) -> None:
        within("scale", self.scale, 0.0, 100.0, open_low=True)
        at_least("seed", self.seed, 0)
        at_least("workers", self.workers, 0)
        one_of("device", self.device, DEVICES)
