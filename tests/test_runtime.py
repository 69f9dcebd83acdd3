"""The machine: choice of the device, its description, and memory that the C library keeps."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from cmmixer.errors import SettingsError
from cmmixer.runtime import describe_machine, keep_freed_memory, select_device

# In processes of their own, since the setting holds to the end of a process.
SCRIPT = """
import os, resource
import numpy as np
from cmmixer.runtime import keep_freed_memory

def work():
    for _ in range(20):
        # As the activations of a step: many at once, then none.
        arrays = [np.ones(1_000_000) for _ in range(10)]
        del arrays

def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for kind in ("returned", "kept"):
    if os.fork() == 0:
        if kind == "kept":
            keep_freed_memory()
        work()
        before = page_faults()
        work()
        print(kind, page_faults() - before, flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="for the GNU C library")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    page_faults = {kind: int(count) for kind, count in map(str.split, ended.stdout.splitlines())}
    # 80 MB twenty times are 800 pages of 2 MB, or 390,000 of 4 kB.
    assert page_faults["returned"] > 500
    assert page_faults["kept"] < 100


@pytest.mark.parametrize("missing", [OSError("no such library"), AttributeError("mallopt")])
def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch, missing: Exception) -> None:
    def library(name: Any) -> Any:
        raise missing

    monkeypatch.setattr(ctypes, "CDLL", library)
    keep_freed_memory()


@pytest.mark.parametrize(
    ("name", "available", "expected"),
    [
        ("auto", True, "cuda"),
        ("auto", False, "cpu"),
        ("cpu", True, "cpu"),
        ("cpu", False, "cpu"),
        ("cuda", True, "cuda"),
    ],
)
def test_device_follows_the_name_and_what_torch_sees(
    monkeypatch: pytest.MonkeyPatch, name: str, available: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert select_device(name) == torch.device(expected)


def test_missing_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError) as refused:
        select_device("cuda")
    assert str(refused.value) == "--device: got cuda, but torch sees no CUDA device; use --device cpu"


def test_machine_is_described_in_json_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    described = describe_machine()
    assert list(described) == ["system", "cores", "python", "torch", "cuda"]
    assert json.loads(json.dumps(described)) == described
    assert (described["torch"], described["cuda"]) == (str(torch.__version__), "none")
    assert described["python"] == ".".join(map(str, sys.version_info[:3]))


def test_cores_are_those_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5, 7}, raising=False)
    assert describe_machine()["cores"] == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert describe_machine()["cores"] == 1


def test_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    assert describe_machine()["cuda"] == "NVIDIA H100"
