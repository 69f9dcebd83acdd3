"""One settings class per command; a command's flags are its fields, its Python function takes the object."""

from __future__ import annotations

from dataclasses import dataclass

from cmmixer.config.augment import AugmentSettings
from cmmixer.config.check import at_least, one_of, within
from cmmixer.config.clip import ClipOptions
from cmmixer.config.cluster import ClusterSettings
from cmmixer.config.cutting import CuttingSettings
from cmmixer.config.mixer import MixerSettings
from cmmixer.config.optimize import OptimizeSettings
from cmmixer.config.presets import PRESETS
from cmmixer.config.training import DEVICES, PRECISIONS, TrainingSettings
from cmmixer.config.vectors import VECTOR_BYTES
from cmmixer.errors import SettingsError
from cmmixer.storage.place import FILMS_ELSEWHERE, INDEX_ELSEWHERE, RUN_ELSEWHERE, refuse_remote

DIFFICULTIES = ("easy", "medium", "hard")
SENSES = ("audio", "video", "film")
LOSSES = ("infonce", "nt_xent")
RERANKS = ("none", "sequence")
# What a file of vectors is named; other names are folders.
PARQUET = ".parquet"
HEAD_STARTS = ("canonical", "random")


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


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(DataSettings, ClipOptions, MixerSettings, AugmentSettings, TrainingSettings):
    """Pre-train the masked autoencoder on mixed clips: fuse, then separate.

    Attributes:
        out: folder of the run
        preset: size of the encoder
        mask_ratio: part of the tokens the encoder does not see
        norm_pix: the targets are standardised per patch
        video_weight: weight of the picture's reconstruction loss
        audio_weight: weight of the sound's reconstruction loss
        interleave: frames interleaved column by column in the strip, as in the published code, instead of side by side
    """

    out: str = "runs/pretrain"
    preset: str = "base"
    mask_ratio: float = 0.75
    norm_pix: bool = False
    video_weight: float = 1.0
    audio_weight: float = 1.0
    interleave: bool = False

    def __post_init__(self) -> None:
        DataSettings.__post_init__(self)
        MixerSettings.__post_init__(self)
        AugmentSettings.__post_init__(self)
        TrainingSettings.__post_init__(self)
        refuse_remote("out", self.out, RUN_ELSEWHERE)
        one_of("preset", self.preset, PRESETS)
        within("mask_ratio", self.mask_ratio, 0.0, 1.0, open_high=True)
        at_least("video_weight", self.video_weight, 0.0)
        at_least("audio_weight", self.audio_weight, 0.0)


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(DataSettings, ClipOptions, AugmentSettings, TrainingSettings):
    """Train the two-tower retriever with a contrastive loss, from a pre-trained encoder or from scratch.

    Attributes:
        out: folder of the run
        init: run or checkpoint of pretrain, or of finetune, which is then trained on with its own sizes; left out, from scratch
        preset: size of the encoder; default: init's, or base from scratch
        shared_tower: one encoder for both senses instead of two
        embed_dim: length of an embedding
        head_start: canonical (heads begin at the canonical correlations of some training pairs) or random
        loss: infonce (symmetric, learnable temperature) or nt_xent (over 2N samples, the published variant)
        temperature: where the temperature starts; nt_xent keeps it
        mask_ratio: part of the tokens dropped while fine-tuning; a strong mask is known to ruin retrieval
        frames_apart: each frame and each sound window goes through the towers by itself, instead of all of them as one strip; a
            clip's vector is then blind to their order, which `--rerank sequence` looks at; default: as in an init of finetune,
            else yes
        frame_weight: part of the loss that contrasts each frame with all sound windows of the batch, those of its own clip's
            other instants included, instead of whole clips; default: all of it with frames apart and 500 clips or more, else 0
        sequence_weight: part of the loss that contrasts frames in their order instead of whole clips
        pair_mix_prob: probability that a clip's frames, picture and sound alike, come from several clips of the batch; default:
            1 with fewer than 500 clips, unless the loss is on frames, else 0
        epochs: how many times every clip is seen
        batch_size: clips per process and step
        warmup_epochs: epochs of linear warm-up from 0; fractions are fine
    """

    out: str = "runs/finetune"
    init: str | None = None
    preset: str | None = None
    shared_tower: bool = False
    embed_dim: int = 256
    head_start: str = "canonical"
    loss: str = "infonce"
    temperature: float = 0.07
    mask_ratio: float = 0.0
    frames_apart: bool | None = None
    frame_weight: float | None = None
    sequence_weight: float = 0.0
    pair_mix_prob: float | None = None
    epochs: int = 30
    batch_size: int = 64
    warmup_epochs: float = 1.0

    def __post_init__(self) -> None:
        DataSettings.__post_init__(self)
        AugmentSettings.__post_init__(self)
        TrainingSettings.__post_init__(self)
        refuse_remote("out", self.out, RUN_ELSEWHERE)
        if self.preset is not None:
            one_of("preset", self.preset, PRESETS)
        one_of("head_start", self.head_start, HEAD_STARTS)
        one_of("loss", self.loss, LOSSES)
        at_least("embed_dim", self.embed_dim, 2)
        at_least("batch_size", self.batch_size, 2)
        within("temperature", self.temperature, 0.0, float("inf"), open_low=True)
        within("mask_ratio", self.mask_ratio, 0.0, 1.0, open_high=True)
        within("sequence_weight", self.sequence_weight, 0.0, 1.0)
        if self.frame_weight is not None:
            within("frame_weight", self.frame_weight, 0.0, 1.0 - self.sequence_weight)
        if self.pair_mix_prob is not None:
            within("pair_mix_prob", self.pair_mix_prob, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(DataSettings):
    """Rank a frozen gallery both ways and report R@K, MedR and MRR with intervals.

    Attributes:
        model: run or checkpoint of finetune, or NAME:ARGUMENT of another encoder, as hf:facebook/pe-av-small or hub:owner/name
        gallery: gallery file to rank; if it does not exist it is frozen there from the data
        clips_per_film: how many clips of each film enter the gallery; 0 takes all
        rerank: sequence orders each query's best candidates anew by what happens when; none leaves them as the clip vectors say
        rerank_top: how many of them
        batch_size: clips at a time; changes nothing but speed
        num_workers: decoder processes
        device: auto, cpu or cuda
        bootstrap: resamplings of the 95 % intervals
        seed: of the bootstrap and of the shuffled-pairs control
        rankings: write the ranked candidates of every query to this JSON Lines file
        out: write the metrics to this JSON file
    """

    model: str
    gallery: str | None = None
    clips_per_film: int = 1
    rerank: str = "none"
    rerank_top: int = 100
    batch_size: int = 32
    num_workers: int = 1
    device: str = "auto"
    bootstrap: int = 1000
    seed: int = 0
    rankings: str | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        DataSettings.__post_init__(self)
        at_least("batch_size", self.batch_size, 1)
        at_least("bootstrap", self.bootstrap, 1)
        one_of("rerank", self.rerank, RERANKS)
        at_least("rerank_top", self.rerank_top, 1)
        for name in ("clips_per_film", "num_workers", "seed"):
            at_least(name, getattr(self, name), 0)
        one_of("device", self.device, DEVICES)


@dataclass(frozen=True, kw_only=True)
class MomentSettings(CuttingSettings):
    """How films are cut into moments for embedding and search.

    Attributes:
        batch_size: moments at a time
        workers: decoder processes; 0 takes every core
        file_seconds: longest time spent on one file; then it is skipped and listed
        device: auto, cpu or cuda
        precision: 32-true or bf16-mixed, of the model's arithmetic
    """

    batch_size: int = 32
    workers: int = 0
    file_seconds: float = 60.0
    device: str = "auto"
    precision: str = "32-true"

    def __post_init__(self) -> None:
        CuttingSettings.__post_init__(self)
        at_least("batch_size", self.batch_size, 1)
        at_least("workers", self.workers, 0)
        within("file_seconds", self.file_seconds, 0.0, float("inf"), open_low=True)
        one_of("device", self.device, DEVICES)
        one_of("precision", self.precision, PRECISIONS)


@dataclass(frozen=True, kw_only=True)
class EmbedSettings(MomentSettings, ClusterSettings):
    """Embed every moment of films and sounds into unit vectors, written as a Parquet file or a Lance table.

    Attributes:
        model: run or checkpoint of finetune, or NAME:ARGUMENT of another encoder, as hf:facebook/pe-av-small or hub:owner/name
        data: a folder of films and sounds, or any layout that pretrain takes
        out: Parquet file named *.parquet: path, start and end of each moment, its vectors, None where a sense is missing; any
            other name is a folder with the same as a Lance table, which a stopped run goes on with; both may be s3://BUCKET/NAME
        frames: write the vectors of each frame, and of the sound around it, beside those of the moment
        vectors: how vectors are stored: fp32, bf16 (half the bytes) or int8 (a quarter, and a scale for each vector)
    """

    model: str
    data: str
    out: str
    frames: bool = False
    vectors: str = "fp32"

    def __post_init__(self) -> None:
        MomentSettings.__post_init__(self)
        ClusterSettings.__post_init__(self)
        one_of("vectors", self.vectors, VECTOR_BYTES)
        if self.engine == "ray" and self.out.endswith(PARQUET):
            raise SettingsError(f"--out {self.out}: --engine ray fills a table, from many machines; give a folder")
        if self.engine == "ray" and self.device == "cuda" and not self.ray_gpus:
            raise SettingsError("--device cuda: on a cluster an actor has the GPUs it asks for; give --ray_gpus 1 too")


@dataclass(frozen=True, kw_only=True)
class IndexSettings(MomentSettings, OptimizeSettings):
    """Build or refresh a search index of moments, and optimise it when they are many.

    Attributes:
        index: folder of the index
        model: run or checkpoint of finetune, or NAME:ARGUMENT of another encoder, as hf:facebook/pe-av-small or hub:owner/name
        data: a folder of films and sounds, or any layout that pretrain takes; --optimize works without
        sync: also remove files that are gone from the data
    """

    index: str
    model: str | None = None
    data: str | None = None
    sync: bool = False

    def __post_init__(self) -> None:
        MomentSettings.__post_init__(self)
        OptimizeSettings.__post_init__(self)
        refuse_remote("index", self.index, INDEX_ELSEWHERE)
        refuse_remote("data", self.data, FILMS_ELSEWHERE)
        if self.data is None and not self.optimize:
            raise SettingsError("missing: --data, what to index; or --optimize, to optimise what is there")
        if self.data is None and self.sync:
            raise SettingsError("--sync: compares an index with its data; give --data too")
        if self.data is not None and self.model is None:
            raise SettingsError("missing: --model, the run that embeds the data")


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Search an index with a film, a silent film or a sound.

    Attributes:
        query: file to search with; `-` reads it from standard input
        index: folder of the index
        target: what to find: audio, video, or film (both together); default: the sense the query lacks, or audio for a film
            with both
        by: what of the query to find it by: audio, video, or film; default: the other sense, or film for film
        k: how many hits
        rerank: sequence orders the best moments anew by what happens when; none leaves them as the clip vectors say; default:
            sequence where pictures look for sound or sound for pictures
        rerank_top: how many of each moment of the query
        timeline: also tell what goes with which part of the query, in its order
        edl: also write the hits as an edit decision list (CMX 3600) for an editing program to this file
        csv: also write the hits as a table to this file
        fps: frames per second of the timecodes in both; default: the query's, or the first hit's, or 25
        exact: look at every moment, in an optimised index too
        model: run that made the index, if it has moved since
        file_seconds: longest time spent on decoding the query
        device: auto, cpu or cuda
    """

    query: str
    index: str
    target: str | None = None
    by: str | None = None
    k: int = 10
    rerank: str | None = None
    rerank_top: int = 100
    timeline: bool = False
    edl: str | None = None
    csv: str | None = None
    fps: float | None = None
    exact: bool = False
    model: str | None = None
    file_seconds: float = 60.0
    device: str = "auto"

    def __post_init__(self) -> None:
        refuse_remote("index", self.index, INDEX_ELSEWHERE)
        at_least("k", self.k, 1)
        if self.rerank is not None:
            one_of("rerank", self.rerank, RERANKS)
        at_least("rerank_top", self.rerank_top, 1)
        if self.target is not None:
            one_of("for", self.target, SENSES)
        if self.by is not None:
            one_of("by", self.by, SENSES)
            if self.target is None:
                raise SettingsError(f"--by {self.by}: say what to find with it, --for audio, video or film")
        if self.rerank == "sequence" and "film" in (self.target, self.by):
            raise SettingsError(
                "--rerank sequence: compares one sense with one; use it with --for and --by audio or video"
            )
        if self.fps is not None:
            within("fps", self.fps, 1.0, 240.0)
        within("file_seconds", self.file_seconds, 0.0, float("inf"), open_low=True)
        one_of("device", self.device, DEVICES)


@dataclass(frozen=True, kw_only=True)
class InspectSettings(DataSettings):
    """Show what a run sees and gives back (pretrain), or who it puts next to whom (finetune), on a page with sounds.

    Attributes:
        model: run or checkpoint of pretrain or finetune
        out: folder for the page, its pictures and its sounds
        clips: how many clips are measured and may be neighbours, evenly from the data
        sheets: how many of them are shown
        num_workers: decoder processes that look into the films
        seed: of mixes and masks
        device: auto, cpu or cuda
    """

    model: str
    out: str = "runs/inspect"
    clips: int = 200
    sheets: int = 4
    num_workers: int = 1
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        DataSettings.__post_init__(self)
        at_least("clips", self.clips, 1)
        at_least("sheets", self.sheets, 1)
        for name in ("num_workers", "seed"):
            at_least(name, getattr(self, name), 0)
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
