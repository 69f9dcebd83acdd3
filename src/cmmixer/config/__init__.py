"""Typed settings, torch-free, so that `cmmixer --help` never waits for torch.

`presets` sizes of the encoder and the picture geometry that goes with each; `clip` what a clip is; `mixer`, `masking`
and `augment` chance; `training` the loop; `commands` one class per command, made of the groups above.
"""

from cmmixer.config.augment import AugmentSettings
from cmmixer.config.bench import BenchSettings
from cmmixer.config.clip import ClipOptions, ClipSettings
from cmmixer.config.commands import (
    EmbedSettings,
    EvaluateSettings,
    FinetuneSettings,
    IndexSettings,
    InspectSettings,
    PrepareSettings,
    PretrainSettings,
    QuickstartSettings,
    SearchSettings,
    SynthesizeSettings,
)
from cmmixer.config.cutting import CuttingSettings
from cmmixer.config.doctor import DoctorSettings
from cmmixer.config.dub import DubSettings
from cmmixer.config.export import ExportSettings
from cmmixer.config.mixer import MixerSettings
from cmmixer.config.presets import PRESETS, ModelSettings, Preset, preset
from cmmixer.config.probe import ProbeSettings
from cmmixer.config.serve import ServeSettings

__all__ = [
    "PRESETS",
    "AugmentSettings",
    "BenchSettings",
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
