"""CMMixer learns which sound belongs to which picture, and turns a folder of films into a search engine.

    import cmmixer
    run = cmmixer.load("runs/quickstart/finetune")
    run.embed_video(["silent.mp4"])     # float32 [1, E], unit length
    cmmixer.mix(video, audio, mode="image", generator=generator)

Names are imported when they are first used, so that `import cmmixer` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cmmixer.version import __version__

if TYPE_CHECKING:
    from cmmixer.benching import bench
    from cmmixer.checkpoint import load_retriever
    from cmmixer.config import (
        BenchSettings,
        DoctorSettings,
        DubSettings,
        EmbedSettings,
        EvaluateSettings,
        ExportSettings,
        FinetuneSettings,
        IndexSettings,
        InspectSettings,
        PrepareSettings,
        PretrainSettings,
        ProbeSettings,
        QuickstartSettings,
        SearchSettings,
        ServeSettings,
        SynthesizeSettings,
    )
    from cmmixer.cutlist import write_csv, write_edl
    from cmmixer.data.prepare import prepare
    from cmmixer.doctoring import doctor
    from cmmixer.dubbing import dub
    from cmmixer.embedding import embed, from_pretrained, load
    from cmmixer.evaluation.retrieval import evaluate
    from cmmixer.exporting import export
    from cmmixer.indexing import index
    from cmmixer.inspecting import inspect
    from cmmixer.media.synthetic.films import synthesize
    from cmmixer.mixer import mix
    from cmmixer.probing import probe
    from cmmixer.searching import search
    from cmmixer.serving.run import serve
    from cmmixer.train.finetune import finetune
    from cmmixer.train.pretrain import pretrain
    from cmmixer.walkthrough import quickstart

_HOMES = {
    "DubSettings": "cmmixer.config",
    "DoctorSettings": "cmmixer.config",
    "BenchSettings": "cmmixer.config",
    "EmbedSettings": "cmmixer.config",
    "EvaluateSettings": "cmmixer.config",
    "ExportSettings": "cmmixer.config",
    "FinetuneSettings": "cmmixer.config",
    "IndexSettings": "cmmixer.config",
    "InspectSettings": "cmmixer.config",
    "PrepareSettings": "cmmixer.config",
    "PretrainSettings": "cmmixer.config",
    "ProbeSettings": "cmmixer.config",
    "QuickstartSettings": "cmmixer.config",
    "SearchSettings": "cmmixer.config",
    "ServeSettings": "cmmixer.config",
    "SynthesizeSettings": "cmmixer.config",
    "doctor": "cmmixer.doctoring",
    "dub": "cmmixer.dubbing",
    "bench": "cmmixer.benching",
    "embed": "cmmixer.embedding",
    "evaluate": "cmmixer.evaluation.retrieval",
    "export": "cmmixer.exporting",
    "finetune": "cmmixer.train.finetune",
    "from_pretrained": "cmmixer.embedding",
    "index": "cmmixer.indexing",
    "inspect": "cmmixer.inspecting",
    "load": "cmmixer.embedding",
    "load_retriever": "cmmixer.checkpoint",
    "mix": "cmmixer.mixer",
    "prepare": "cmmixer.data.prepare",
    "pretrain": "cmmixer.train.pretrain",
    "probe": "cmmixer.probing",
    "quickstart": "cmmixer.walkthrough",
    "search": "cmmixer.searching",
    "serve": "cmmixer.serving.run",
    "synthesize": "cmmixer.media.synthetic.films",
    "write_csv": "cmmixer.cutlist",
    "write_edl": "cmmixer.cutlist",
}

__all__ = [
    "BenchSettings",
    "DoctorSettings",
    "DubSettings",
    "EmbedSettings",
    "EvaluateSettings",
    "ExportSettings",
    "FinetuneSettings",
    "IndexSettings",
    "InspectSettings",
    "PrepareSettings",
    "PretrainSettings",
    "ProbeSettings",
    "QuickstartSettings",
    "SearchSettings",
    "ServeSettings",
    "SynthesizeSettings",
    "__version__",
    "bench",
    "doctor",
    "dub",
    "embed",
    "evaluate",
    "export",
    "finetune",
    "from_pretrained",
    "index",
    "inspect",
    "load",
    "load_retriever",
    "mix",
    "prepare",
    "pretrain",
    "probe",
    "quickstart",
    "search",
    "serve",
    "synthesize",
    "write_csv",
    "write_edl",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cmmixer' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    # `cmmixer.embed` the function must win over `cmmixer.embed` the module, which the import system has just set.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
