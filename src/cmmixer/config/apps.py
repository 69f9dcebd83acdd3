"""Settings of the commands that use the whole package: quickstart, probe, export, dub, serve and doctor.

The docstring of a field is the help of its flag.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from cmmixer.config.base import INDEX_ELSEWHERE, at_least, one_of, refuse_remote, within
from cmmixer.config.training import DEVICES, AugmentSettings
from cmmixer.errors import SettingsError

TASKS = ("audio", "video", "audiovisual")
MODES = ("linear", "finetune")
SHORT_FILES = ("refuse", "use", "skip")
EXPORT_FORMATS = ("onnx",)

_MIN_TOKEN_CHARACTERS = 16
_INFINITY = float("inf")


@dataclass(frozen=True, kw_only=True)
class QuickstartSettings:
    """Run everything once: videos, pre-training, fine-tuning, evaluation, index, search and a report.

    Attributes:
        data: your own videos instead of synthetic ones; a `split` column with train and gallery is used
        out: folder for the runs and the report
        scale: size of everything; 1 takes ten minutes on two CPU cores, less is a quick look
        seed: seed of everything random
        workers: processes that make and decode videos; 0 uses every core
        device: auto, cpu or cuda
        overwrite: start again; without it finished steps are kept and the rest is done
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


@dataclass(frozen=True, kw_only=True)
class ProbeSettings(AugmentSettings):
    """Classify labelled files with a run's encoder, and compare with untrained encoders and plain statistics.

    Attributes:
        model: run or checkpoint of pretrain or finetune
        data: labelled videos or audio files, in any layout with labels
        task: audio, video, or audiovisual (both)
        mode: linear (a linear classifier on frozen encoders) or finetune (the encoders are trained too, which takes longer)
        label: column of the class; several classes of a file are separated by `;`
        fold: column of the fold; if the data has none, folds are made
        folds: number of folds that are made
        source: column of the source video; all files of a source are in the same fold
        clips: clips of each file, spaced evenly from start to end, whose results are averaged
        short: files shorter than a clip: refuse (stop before any training), use (as one clip of the file's length, with frames
            closer together and silence around the sound) or skip (and list them)
        out: folder for the figures, the confusion matrix, and the classifiers of finetune
        epochs: (finetune) how many times each clip of the training files is seen
        batch_size: (finetune) clips in a batch
        lr: (finetune) peak learning rate
        warmup_epochs: (finetune) epochs of linear warm-up from 0
        weight_decay: (finetune) weight decay of AdamW
        modality_dropout: (finetune, audiovisual) probability that a clip is seen with one modality only
        workers: decoder processes; 0 uses every core
        file_seconds: time limit for one file; beyond it, the file is skipped and listed
        bootstrap: resamples for the 95 % intervals
        seed: seed of the folds, the untrained encoders, the training and the bootstrap
        device: auto, cpu or cuda
        overwrite: train again in a folder with classifiers; without it they are kept, or finished
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
    modality_dropout: float = 0.0
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
        within("modality_dropout", self.modality_dropout, 0.0, 1.0)
        for name in ("lr", "file_seconds"):
            within(name, getattr(self, name), 0.0, _INFINITY, open_low=True)
        one_of("device", self.device, DEVICES)


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Export both encoders to files that run without torch, and check them against torch.

    Attributes:
        model: run or checkpoint of finetune
        out: new folder for video.onnx, audio.onnx and export.json
        format: onnx
        seed: seed of the clips used in the check
    """

    model: str
    out: str
    format: str = "onnx"
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("format", self.format, EXPORT_FORMATS)
        at_least("seed", self.seed, 0)


@dataclass(frozen=True, kw_only=True)
class DubSettings:
    """Put a sound under a video: video stream copied, loudness normalized, ends faded.

    Attributes:
        video: the video; its video stream is copied, not encoded again
        audio: an audio file, or a video whose sound is used
        out: video to write; .mp4 and .mkv get AAC, .mov gets PCM
        start: second of the sound to start from
        at: second of the video where the sound starts
        loudness_lufs: integrated loudness of the result; -23 is EBU R128, web platforms often ask for -14 to -16
        fade_in_seconds: length of the fade at the start of the sound
        fade_out_seconds: length of the fade at its end, or at the end of the video
        duck: keep the video's own sound, and lower the new one while it is heard
        file_seconds: time limit for the whole command
    """

    video: str
    audio: str
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
            within(name, getattr(self, name), 0.0, _INFINITY, open_high=True)
        within("loudness_lufs", self.loudness_lufs, -60.0, -5.0)
        within("file_seconds", self.file_seconds, 0.0, _INFINITY, open_low=True)


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Serve a web page and an HTTP API to search an index, listen to the hits, and index more folders.

    Attributes:
        index: folder of the index
        model: run that made the index, if it has moved since
        host: address to listen on; any but a loopback address needs --token
        port: port to listen on; 0 takes a free one
        token: secret that every request must send, at least 16 characters; the page asks for it
        token_file: file with the token, which keeps it out of the list of processes
        roots: folders that may be indexed from the page, separated by `:`; default: the folders that the index was made from
        cache: folder for thumbnails, waveforms, and converted files for browsers; default: `previews` in the index
        cache_mb: size limit of that folder; the least recently used files are deleted first
        max_upload_mb: size limit of a file to search with
        upload_seconds: time limit for an upload
        query_seconds: duration limit of a video or sound to search with
        file_seconds: time limit for decoding one file
        convert_seconds: time limit for converting a file for browsers; what is done by then is played
        dub_seconds: time limit for writing a video with its new sound
        memory_mb: memory limit of a decoder process
        queries: how many uploaded files are kept; the oldest is deleted first
        query_minutes: how long an uploaded file is kept after its last use
        searches: how many uploads are embedded at the same time
        waiting: how many requests may wait for that; further ones are asked to come back later
        workers: decoder processes for previews
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
            within(name, getattr(self, name), 0.0, _INFINITY, open_low=True)
        one_of("device", self.device, DEVICES)
        if self.token is not None and self.token_file is not None:
            raise SettingsError("--token and --token_file: got both, expected one of them")
        if self.token is not None:
            check_token(self.token, "--token")
        if not self.is_loopback and self.token is None and self.token_file is None:
            raise SettingsError(
                f"--host: got {self.host}, which other machines can reach; add --token or --token_file, or listen on 127.0.0.1"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def check_token(token: str, where: str) -> str:
    """Returns a token if it can be sent in a header and is long enough not to be guessed.

    Args:
        token: the token.
        where: the option or file that it comes from, for messages.

    Raises:
        SettingsError: it is too short, or has characters other than visible ASCII.
    """
    if len(token) < _MIN_TOKEN_CHARACTERS:
        raise SettingsError(f"{where}: got {len(token)} characters, expected {_MIN_TOKEN_CHARACTERS} or more")
    if not all("!" <= character <= "~" for character in token):
        raise SettingsError(
            f"{where}: got a character that a header cannot carry, expected visible ASCII without spaces"
        )
    return token


@dataclass(frozen=True, kw_only=True)
class DoctorSettings:
    """Check this machine, and optionally media files and an index; say what works, what does not, and what to do.

    Attributes:
        data: also check each file of this folder, list or manifest
        index: also check this index and its model
        model: run that made the index, if it has moved since
        file_seconds: time limit for one file
        workers: decoder processes; 0 uses every core
    """

    data: str | None = None
    index: str | None = None
    model: str | None = None
    file_seconds: float = 20.0
    workers: int = 0

    def __post_init__(self) -> None:
        within("file_seconds", self.file_seconds, 0.0, _INFINITY, open_low=True)
        at_least("workers", self.workers, 0)
