"""Typed settings, torch-free, so that `cmmixer --help` never waits for torch.

`presets` sizes of the encoder and the picture geometry that goes with each; `clip` what a clip is; `mixer`, `masking`
and `augment` chance; `training` the loop. A command has one class, made of such groups: `data` (synthesize, prepare), `learning` (pretrain,
finetune), `evaluate` (and inspect), `library` (embed, index, search); any other has a module of its name.
"""

from cmmixer.config.augment import AugmentSettings
from cmmixer.config.bench import BenchSettings
from cmmixer.config.clip import ClipOptions, ClipSettings
from cmmixer.config.cutting import CuttingSettings
from cmmixer.config.data import PrepareSettings, SynthesizeSettings
from cmmixer.config.doctor import DoctorSettings
from cmmixer.config.dub import DubSettings
from cmmixer.config.evaluate import EvaluateSettings, InspectSettings
from cmmixer.config.export import ExportSettings
from cmmixer.config.learning import FinetuneSettings, PretrainSettings
from cmmixer.config.library import EmbedSettings, IndexSettings, SearchSettings
from cmmixer.config.mixer import MixerSettings
from cmmixer.config.presets import PRESETS, ModelSettings, Preset, preset
from cmmixer.config.probe import ProbeSettings
from cmmixer.config.quickstart import QuickstartSettings
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
