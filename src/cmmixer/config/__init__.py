"""Settings of all commands: typed, frozen and checked. Nothing here imports torch, so `cmmixer --help` is fast.

Each command has one class, built from groups. `base` has the checks, `clip` the geometry of clips and the presets, `data` the
settings of synthesize and prepare, `training` those of pretrain and finetune, `retrieval` those of evaluate, inspect, embed,
index and search, and `apps` those of the other commands.
"""

from cmmixer.config.apps import (
    DoctorSettings,
    DubSettings,
    ExportSettings,
    ProbeSettings,
    QuickstartSettings,
    ServeSettings,
)
from cmmixer.config.clip import PRESETS, ClipOptions, ClipSettings, ModelSettings, Preset, SegmentSettings, preset
from cmmixer.config.data import PrepareSettings, SynthesizeSettings
from cmmixer.config.retrieval import EmbedSettings, EvaluateSettings, IndexSettings, InspectSettings, SearchSettings
from cmmixer.config.training import AugmentSettings, FinetuneSettings, MixerSettings, PretrainSettings

__all__ = [
    "PRESETS",
    "AugmentSettings",
    "ClipOptions",
    "ClipSettings",
    "DoctorSettings",
    "DubSettings",
    "EmbedSettings",
    "EvaluateSettings",
    "ExportSettings",
    "FinetuneSettings",
    "IndexSettings",
    "InspectSettings",
    "MixerSettings",
    "ModelSettings",
    "PrepareSettings",
    "Preset",
    "PretrainSettings",
    "ProbeSettings",
    "QuickstartSettings",
    "SearchSettings",
    "SegmentSettings",
    "ServeSettings",
    "SynthesizeSettings",
    "preset",
]
