"""The examples of docs/api.md: run in their order, in one namespace, and together they use every public name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import cmmixer
from cmmixer.config.fields import accepts_settings
from cmmixer.demo.quickstart import QuickstartSettings
from cmmixer.encoders.export import ExportSettings

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "api.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def _run_examples(folder: Path, patch: pytest.MonkeyPatch) -> tuple[dict[str, Any], dict[str, object]]:
    """Runs the examples; returns their names, and what three slow commands were given, of which stand-ins take the place.

    A quickstart takes minutes, an export tens of seconds, and a service runs until it is interrupted.
    """
    given: dict[str, object] = {}

    @accepts_settings(QuickstartSettings)
    def quickstart(settings: QuickstartSettings) -> None:
        given["quickstart"] = settings.out

    @accepts_settings(ExportSettings)
    def export(settings: ExportSettings) -> None:
        given["export"] = settings.out

    patch.setattr(cmmixer, "quickstart", quickstart)
    patch.setattr(cmmixer, "export", export)
    patch.setattr("uvicorn.Server.run", lambda server, sockets: given.update(serve=sockets[0].getsockname()[1]))
    patch.chdir(folder)
    names: dict[str, Any] = {}
    for number, block in enumerate(BLOCKS):
        exec(compile(block.replace("port=8765", "port=0"), f"docs/api.md, example {number}", "exec"), names)
    return names, given


@pytest.mark.filterwarnings("ignore")
def test_every_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names, given = _run_examples(tmp_path, monkeypatch)
    assert names["both"].shape == (2, names["model"].dim)
    assert len(names["hits"]) > 0
    assert names["evaluation"].metrics.keys() >= {"video_to_audio", "audio_to_video"}
    assert names["table"].column_names == ["path", "start_seconds", "video"]
    assert names["mixed"].shape == (2, 4, 3, 64, 64)
    assert (given["quickstart"], given["export"]) == ("runs/quickstart", "runs/fine-onnx")
    assert given["serve"] > 0  # type: ignore[operator]
    for file in ("runs/inspect/inspect.html", "hits.csv", "hits.edl", "dubbed.mp4", "videos.parquet"):
        assert (tmp_path / file).is_file(), file
    assert "pretrain: unknown keys: epoch (did you mean epochs?)\n" in capsys.readouterr().out


def test_every_public_name_is_in_an_example() -> None:
    used = set(re.findall(r"\bcmmixer\.(\w+)", "\n".join(BLOCKS)))
    assert [name for name in cmmixer.__all__ if name not in used] == []
