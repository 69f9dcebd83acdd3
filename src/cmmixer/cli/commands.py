"""The table of commands: name, settings, function and example of each."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cmmixer import config
from cmmixer.config.base import POSITIONALS
from cmmixer.errors import SettingsError


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: as typed.
        settings: its settings class; the first line of the docstring is the command's help.
        function: `module:name` of the Python function that takes the settings and a progress.
        example: command lines that work.
        extra: the package extra with the libraries that only this command needs.
        positionals: the fields that are given without a flag, in order; default: those in `POSITIONALS`.
        program: what is typed before the options.
    """

    name: str
    settings: type[Any]
    function: str
    example: str
    extra: str | None = None
    positionals: tuple[str, ...] = ()
    program: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "positionals", self.positionals or POSITIONALS.get(self.name, ()))
        object.__setattr__(self, "program", self.program or f"cmmixer {self.name}")

    @property
    def summary(self) -> str:
        """The first line of the help."""
        return (self.settings.__doc__ or "").strip().splitlines()[0]

    def load(self) -> Callable[..., Any]:
        """Imports and returns the function, and with it torch and the rest.

        Raises:
            SettingsError: a library of the command's extra is not installed.
        """
        module, name = self.function.split(":")
        try:
            function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if self.extra is None or error.name is None or error.name.startswith("cmmixer"):
                raise
            raise SettingsError(
                f"{self.name} needs {error.name}, which is not installed; pip install 'cmmixer[{self.extra}]'"
            ) from error
        return function


COMMANDS = {
    command.name: command
    for command in (
        Command(
            "quickstart",
            config.QuickstartSettings,
            "cmmixer.demo.quickstart:quickstart",
            "cmmixer quickstart\n  cmmixer quickstart --data ~/videos --out runs/mine",
        ),
        Command(
            "synthesize",
            config.SynthesizeSettings,
            "cmmixer.synthetic.generate:synthesize",
            "cmmixer synthesize --clips 200 --out videos --seed 1 --difficulty easy",
        ),
        Command(
            "prepare",
            config.PrepareSettings,
            "cmmixer.data.prepare:prepare",
            "cmmixer prepare --data ~/videos --out stores/videos --preset nano",
        ),
        Command(
            "pretrain",
            config.PretrainSettings,
            "cmmixer.train.pretrain:pretrain",
            "cmmixer pretrain --data stores/videos --preset nano --epochs 20 --batch_size 64 --warmup_epochs 2 --out runs/pre\n"
            "  torchrun --nproc-per-node 8 -m cmmixer pretrain --num_workers 32 --batch_size 8 --epochs 400 --lr 2e-4 "
            "--warmup_epochs 40 --mixup_mode image --data ~/videos",
        ),
        Command(
            "finetune",
            config.FinetuneSettings,
            "cmmixer.train.finetune:finetune",
            "cmmixer finetune --data stores/videos --init runs/pre --out runs/fine",
        ),
        Command(
            "evaluate",
            config.EvaluateSettings,
            "cmmixer.evaluation.evaluate:evaluate",
            "cmmixer evaluate runs/fine --data stores/gallery --gallery gallery.json",
        ),
        Command(
            "probe",
            config.ProbeSettings,
            "cmmixer.analysis.probe:probe",
            "cmmixer probe runs/pre --data sounds.csv --task audio --label category",
            extra="probe",
        ),
        Command(
            "inspect",
            config.InspectSettings,
            "cmmixer.analysis.inspect_run:inspect",
            "cmmixer inspect runs/pre --data ~/videos --out runs/inspect",
            extra="inspect",
        ),
        Command(
            "embed",
            config.EmbedSettings,
            "cmmixer.embedding.embed:embed",
            "cmmixer embed --model runs/fine --data ~/videos --out videos.parquet",
        ),
        Command(
            "index",
            config.IndexSettings,
            "cmmixer.retrieval.build:index",
            "cmmixer index --model runs/fine --data ~/videos --index library\n  cmmixer index --index library --optimize",
        ),
        Command(
            "search",
            config.SearchSettings,
            "cmmixer.retrieval.search:search",
            "cmmixer search --index library silent.mp4 --for audio -k 5",
        ),
        Command(
            "dub",
            config.DubSettings,
            "cmmixer.editing.dub:dub",
            "cmmixer dub silent.mp4 music.wav -o dubbed.mp4 --start 12.5\n"
            "  cmmixer dub interview.mp4 music.wav -o dubbed.mov --duck --loudness_lufs -16",
        ),
        Command(
            "serve",
            config.ServeSettings,
            "cmmixer.server.serve:serve",
            "cmmixer serve --index library\n  cmmixer serve --index library --host 0.0.0.0 --token_file token.txt --roots /media/videos",
            extra="serve",
        ),
        Command(
            "export",
            config.ExportSettings,
            "cmmixer.encoders.export:export",
            "cmmixer export --model runs/fine --format onnx --out runs/fine-onnx",
            extra="export",
        ),
        Command(
            "doctor",
            config.DoctorSettings,
            "cmmixer.diagnostics.doctor:doctor",
            "cmmixer doctor\n  cmmixer doctor --data ~/videos --index library",
        ),
    )
}
