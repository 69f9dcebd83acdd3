"""Typed settings, torch-free, so that `cmmixer --help` never waits for torch.

`presets` sizes of the encoder and the picture geometry that goes with each; `clip` what a clip is; `mixer`, `masking`
and `augment` chance; `training` the loop. A command has one class, made of such groups: `data` (synthesize, prepare), `learning` (pretrain,
finetune), `evaluate` (and inspect), `library` (embed, index, search); any other has a module of its name.
"""

from cmmixer.config.apps import (
    DoctorSettings,
    DubSettings,
    ExportSettings,
    ProbeSettings,
    QuickstartSettings,
    ServeSettings,
)
from cmmixer.config.clip import PRESETS, ClipOptions, ClipSettings, CuttingSettings, ModelSettings, Preset, preset
from cmmixer.config.data import PrepareSettings, SynthesizeSettings
from cmmixer.config.retrieval import EmbedSettings, EvaluateSettings, IndexSettings, InspectSettings, SearchSettings
from cmmixer.config.training import AugmentSettings, FinetuneSettings, MixerSettings, PretrainSettings

__all__ = [
    "PRESETS",
    "AugmentSettings",
    "ClipOptions",
    "ClipSettings",
    "CuttingSettings",
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
    "ServeSettings",
    "SynthesizeSettings",
    "preset",
]
