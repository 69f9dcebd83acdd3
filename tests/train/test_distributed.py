"""One process with a batch of 16 clips, two with 8 and four with 4 do the same steps, whole or sliced."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from cmmixer import checkpoint
from cmmixer.train.resume import read_state
from tests.support.commands import torchrun_module
from tests.support.training_process import train

SHIFTED = re.compile(r"^encoders\.\w+\.norm\.bias$|running_mean$")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    train(folder, "ddp", 1)
    return folder


@pytest.fixture(scope="module", params=[2, 4])
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(f"of-{request.param}")
    ended = torchrun_module(request.param, "tests.support.training_process", folder, str(request.param))
    assert ended.returncode == 0, ended.stderr[-2000:]
    return folder


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_several_processes_do_the_steps_of_one(together: Path, alone: Path, strategy: str, stage: str) -> None:
    one, many = alone / f"ddp-{stage}", together / f"{strategy}-{stage}"
    assert [row["step"] for row in _log(many)] == [1, 2, 3]
    for single, several in zip(_log(one), _log(many), strict=True):
        for name in single.keys() - {"clips_per_second", "gradient_norm"}:
            assert several[name] == pytest.approx(single[name], rel=2e-4), (name, single["step"])
        assert several["gradient_norm"] == pytest.approx(single["gradient_norm"], rel=2e-3)
    slices = len(checkpoint.load_progress(many)["files"])
    assert slices == (int(together.name[3:4]) if strategy == "fsdp" else 1)
    moments, others = (read_state(run, checkpoint.build(checkpoint.load_card(run))) for run in (one, many))
    assert moments.keys() == others.keys()
    for name, value in moments.items():
        # The last layer norm's shift is taken out again by the standardisation: its moments are rounding of 0.
        assert (others[name] - value).norm() <= 2e-3 * value.norm() + 1e-6, name
    weights, others = (load_file(checkpoint.resolve(run) / "weights.safetensors") for run in (one, many))
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        # And AdamW moves a weight by up to lr = 1e-3 a step however small its gradient is.
        most = 3e-3 if SHIFTED.search(name) else 1e-5
        assert (others[name] - value).abs().mean() <= most, name
    assert checkpoint.load_card(many).clips_seen == checkpoint.load_card(one).clips_seen == 96


def _log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
