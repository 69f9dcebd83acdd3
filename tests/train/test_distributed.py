"""Several processes: one with a batch of 16 clips, two with 8 and four with 4 do the same steps, whole or sharded."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric.strategies import DDPStrategy, ModelParallelStrategy
from safetensors.torch import load_file

from cmmixer import checkpoint
from cmmixer.config.training import TrainingSettings
from cmmixer.errors import LostProcessError, SettingsError
from cmmixer.train.distributed import (
    _explain_failed_connection,
    _strategy,
    explain_lost_process,
    full_tensor,
    make_fabric,
    shard,
)
from cmmixer.train.resume import read_optimizer_state
from tests.support.gloo_processes import run_module
from tests.support.training_process import train
from tests.support.training_runs import log_rows

# Shifts that a later normalization removes.
SHIFTED = re.compile(r"^encoders\.\w+\.norm\.bias$|running_mean$")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of one, two and four processes, in `of-N`."""
    folder = tmp_path_factory.mktemp("trained")
    train(folder / "of-1", "ddp", 1)
    run_module("tests.support.training_process", folder, 2, 4)
    return folder


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_several_processes_do_the_steps_of_one(trained: Path, processes: int, strategy: str, stage: str) -> None:
    one, many = trained / "of-1" / f"ddp-{stage}", trained / f"of-{processes}" / f"{strategy}-{stage}"
    assert [row["step"] for row in log_rows(many)] == [1, 2, 3]
    for single, several in zip(log_rows(one), log_rows(many), strict=True):
        for name in single.keys() - {"clips_per_second", "gradient_norm"}:
            assert several[name] == pytest.approx(single[name], rel=2e-4), (name, single["step"])
        assert several["gradient_norm"] == pytest.approx(single["gradient_norm"], rel=2e-3)
    shards = len(checkpoint.load_progress(many)["files"])
    assert shards == (processes if strategy == "fsdp" else 1)
    moments, others = (
        read_optimizer_state(run, checkpoint.build(checkpoint.load_metadata(run))) for run in (one, many)
    )
    assert moments.keys() == others.keys()
    for name, value in moments.items():
        # The shift of the last layer norm is removed by a normalization, so its moments are rounding errors of 0.
        assert (others[name] - value).norm() <= 2e-3 * value.norm() + 1e-6, name
    weights, others = (load_file(checkpoint.resolve(run) / "weights.safetensors") for run in (one, many))
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        # And AdamW moves a weight by up to lr = 1e-3 a step, however small its gradient is.
        tolerance = 3e-3 if SHIFTED.search(name) else 1e-5
        assert (others[name] - value).abs().mean() <= tolerance, name
    assert checkpoint.load_metadata(many).clips_seen == checkpoint.load_metadata(one).clips_seen == 96


def test_single_process_needs_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    fabric = make_fabric(TrainingSettings(device="cpu", strategy="fsdp"))
    assert (fabric.world_size, fabric.global_rank, fabric.is_global_zero, fabric.device.type) == (1, 0, True, "cpu")


def test_missing_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match="--device: got cuda, but torch sees no CUDA device; use --device cpu"):
        make_fabric(TrainingSettings(device="cuda"))


def test_strategies_are_those_of_fabric() -> None:
    ddp, fsdp = _strategy("ddp", 4), _strategy("fsdp", 4)
    assert isinstance(ddp, DDPStrategy)
    assert ddp._ddp_kwargs == {"broadcast_buffers": False}
    assert isinstance(fsdp, ModelParallelStrategy)
    assert fsdp._parallelize_fn is shard
    assert (fsdp._data_parallel_size, fsdp._tensor_parallel_size) == (4, 1)


def test_whole_tensor_is_its_own_full_tensor() -> None:
    tensor = torch.arange(3.0)
    assert full_tensor(tensor) is tensor


def fabric_of(world: int) -> Any:
    return SimpleNamespace(world_size=world, global_rank=1)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[gloo/pair.cc:534] Connection closed by peer [127.0.0.1]:1234"),
        RuntimeError("NCCL error: remote process exited or there was a network error"),
        ConnectionResetError(104, "Connection reset by peer"),
    ],
)
def test_lost_process_is_one_line(error: Exception) -> None:
    with pytest.raises(LostProcessError) as explained, explain_lost_process(fabric_of(4)):
        raise error
    assert str(explained.value) == (
        "process 1 of 4 lost touch with another one, which was killed or failed; torchrun's summary names it; the same command "
        "resumes from the last checkpoint, on any number of processes that divides the clips of a step"
    )
    assert explained.value.__cause__ is error


@pytest.mark.parametrize(("world", "text"), [(4, "mat1 and mat2 shapes cannot be multiplied"), (1, "Broken pipe")])
def test_other_errors_are_not_taken_for_a_lost_process(world: int, text: str) -> None:
    with pytest.raises(RuntimeError, match=text), explain_lost_process(fabric_of(world)):
        raise RuntimeError(text)


def test_failed_connection_is_one_line() -> None:
    with pytest.raises(LostProcessError) as explained, _explain_failed_connection(3):
        raise RuntimeError("Gloo connectFullMesh failed with [127.0.0.1] timed out\nmore lines")
    assert str(explained.value) == (
        "3 processes could not connect: Gloo connectFullMesh failed with [127.0.0.1] timed out; check that all of them are started "
        "and can reach one another's addresses; with torchrun --max-restarts, set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, or they "
        "look for those that were killed"
    )
    with (
        pytest.raises(LostProcessError, match="2 processes could not connect: no route"),
        _explain_failed_connection(2),
    ):
        raise torch.distributed.DistNetworkError("no route")
    with pytest.raises(RuntimeError, match="something else"), _explain_failed_connection(2):
        raise RuntimeError("something else")
