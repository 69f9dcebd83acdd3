"""One function over many parts of some work, on the actors of a Ray cluster, through Ray Data.

An actor that dies is started anew and the part it had is done again; answers come in the order of the parts. So whoever
commits them does so once, in the order a single machine would.
"""

from __future__ import annotations

import math
import os
import pickle
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from cmmixer.config.data import ClusterSettings
from cmmixer.errors import CMMixerError, InternalError, SettingsError
from cmmixer.storage.s3 import aws_variables

Part = TypeVar("Part")
Answer = TypeVar("Answer")

# Ray Data plans all parts of a run beforehand; a wave of them is enough to keep thousands of actors busy.
_PARTS_PER_WAVE = 10_000
# So that an actor with long films does not hold up the end.
_PARTS_EACH = 4
# A part that took so many actors with it will take the next one too.
_TRIES = 4
_CONNECT_SECONDS = 5.0
_ASK_SECONDS = 30.0
# Parts and answers are descriptions, kilobytes each; pictures and sound go to the tables directly.
_OBJECT_STORE_BYTES = 150 << 20


class Cluster:
    """A cluster that answers and has room.

    Args:
        ray: the library, connected.
        settings: how many actors, what each needs.

    Raises:
        SettingsError: no machine has room for an actor.
    """

    def __init__(self, ray: Any, settings: ClusterSettings) -> None:
        self._ray, self._settings = ray, settings
        self.actors = _room(ray, settings)

    def parts(self, items: Sequence[Part], most: int) -> list[Sequence[Part]]:
        """Items in parts of at most `most`, and of fewer where actors would have nothing to do."""
        size = max(1, min(most, math.ceil(len(items) / (self.actors * _PARTS_EACH))))
        return [items[start : start + size] for start in range(0, len(items), size)]

    def map(self, make: Callable[[], Callable[[Part], Answer]], parts: Sequence[Part]) -> Iterator[Answer]:
        """`make()(part)` for each part, in the order of the parts.

        Args:
            make: called once in each actor; pickled, so a function of a module or a `partial` of one.
            parts: small; pictures and sound do not belong in them, nor in the answers.

        Raises:
            CMMixerError: what an actor raised.
            InternalError: a part that ends every actor which tries it, or a cluster that is lost.
        """
        for start in range(0, len(parts), _PARTS_PER_WAVE):
            yield from self._wave(make, parts[start : start + _PARTS_PER_WAVE])

    def _wave(self, make: Any, parts: Sequence[Any]) -> Iterator[Any]:
        ray = self._ray
        rows = [{"part": pickle.dumps(part)} for part in parts]
        with warnings.catch_warnings():
            # Ray 2.60 says that how often a part is tried goes in another way from 2.64 on, and not yet in which.
            warnings.simplefilter("ignore")
            answers = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                _Actor,
                fn_constructor_args=(make, aws_variables()),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=min(self.actors, len(parts))),
                num_cpus=self._settings.ray_cpus,
                num_gpus=self._settings.ray_gpus,
                ray_remote_args_fn=_options,
            )
        again = "what was committed stays, run the same command again"
        try:
            for row in answers.iter_rows():
                answer = pickle.loads(row["answer"])
                if isinstance(answer, CMMixerError):
                    raise answer
                yield answer
        except ray.exceptions.RayActorError as fault:
            raise InternalError(
                f"a part of the work ended its actor {_TRIES} times; {again} ({_short(fault)})"
            ) from fault
        except (ray.exceptions.RaySystemError, ray.exceptions.RpcError, ConnectionError) as fault:
            raise InternalError(f"the Ray cluster was lost; {again} ({_short(fault)})") from fault


def _options() -> dict[str, int]:
    """Ray Data starts lost actors anew and repeats their parts for ever; a part that ends all of them must not."""
    return {"max_task_retries": _TRIES - 1}


class _Actor:
    """What runs in the cluster. The work is made with the first part, so that what fails there is told like any failure.

    Args:
        make: the work.
        environment: variables of the caller. Not given as Ray's `runtime_env`, which its pages and logs show.
    """

    def __init__(self, make: Callable[[], Callable[[Any], Any]], environment: dict[str, str]) -> None:
        os.environ.update(environment)
        self._make = make
        self._work: Callable[[Any], Any] | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        return {"answer": [pickle.dumps(self._answer(pickle.loads(part))) for part in batch["part"]]}

    def _answer(self, part: Any) -> Any:
        try:
            self._work = self._work or self._make()
            return self._work(part)
        except CMMixerError as fault:
            return fault


@contextmanager
def connected(settings: ClusterSettings) -> Iterator[Cluster | None]:
    """The cluster of the settings, None for the local engine. A program that is connected to Ray already stays so.

    Raises:
        SettingsError: Ray is not installed, nobody answers, or no machine has room for an actor.
    """
    if settings.engine == "local":
        yield None
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as fault:
        raise SettingsError(
            f"--engine ray needs {fault.name}, which is not installed; pip install 'cmmixer[ray]'"
        ) from fault
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, settings.ray_address or os.environ.get("RAY_ADDRESS"))
    try:
        _quiet(ray)
        yield Cluster(ray, settings)
    finally:
        if ours:
            ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        options |= {"address": "local", "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    try:
        if address is not None:
            _knock(address)
            _ask(address)
        with warnings.catch_warnings():
            # Lance warns of a fork; those that Ray starts are other programs at once.
            warnings.filterwarnings("ignore", message="lance is not fork-safe")
            ray.init(**options)
    except SettingsError:
        raise
    except Exception as fault:  # Ray has no common error for this
        if address is not None:
            raise _no_answer(address, _short(fault)) from fault
        raise SettingsError(f"--engine ray: no Ray cluster can be started on this machine ({_short(fault)})") from fault


def _no_answer(address: str, why: str) -> SettingsError:
    return SettingsError(f"--ray_address: {address}: no Ray cluster answers ({why}); start one with `ray start --head`")


def _knock(address: str) -> None:
    """Asks whether anybody listens there; Ray itself would go on asking for a minute.

    Raises:
        SettingsError: nobody does, or the address is none.
    """
    if address in ("auto", "local"):
        return
    host, colon, port = address.rpartition(":")
    if address.startswith("ray://"):
        raise SettingsError(
            f"--ray_address: got {address}, expected HOST:PORT or auto: Ray Data does not work through Ray's client; run the "
            "command on a machine of the cluster, or through `ray job submit`"
        )
    if not colon or not port.isdigit():
        raise SettingsError(f"--ray_address: got {address!r}, expected HOST:PORT or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as fault:
        raise _no_answer(address, str(fault)) from fault


def _ask(address: str) -> None:
    """Connects in a process of its own first: towards a server that is not Ray's, or wants a token, Ray never gives up.

    Raises:
        SettingsError: it cannot connect; says why.
    """
    code = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False); print(len(ray.nodes()))"
    line = [sys.executable, "-W", "ignore", "-c", code, address]
    try:
        done = subprocess.run(line, capture_output=True, text=True, errors="replace", timeout=_ASK_SECONDS, check=False)
    except subprocess.TimeoutExpired as fault:
        raise _no_answer(address, _reason(fault.stderr, f"nothing in {_ASK_SECONDS:g} s")) from fault
    if done.returncode:
        raise _no_answer(address, _reason(done.stderr, f"exit code {done.returncode}"))


def _reason(complaints: str | bytes | None, otherwise: str) -> str:
    """Why Ray could not connect: its last line, or what only its log knows."""
    text = complaints.decode("utf-8", "replace") if isinstance(complaints, bytes) else complaints or ""
    if "InvalidAuthToken" in text:
        return "it wants a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or a file ~/.ray/auth_token"
    lines = [line for line in text.splitlines() if "Error" in line]
    return lines[-1][:160] if lines else otherwise


def _quiet(ray: Any) -> None:
    """Ray Data's own progress bars and reports stay off: the command has its own."""
    import logging

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.execution_no_progress_timeout_s = -1  # a part may be hours of film
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _room(ray: Any, settings: ClusterSettings) -> int:
    """How many actors: those asked for, or as many as fit on the cluster as it is.

    Raises:
        SettingsError: not one.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fits = [int(node.get("CPU", 0) // settings.ray_cpus) for node in nodes]
    if settings.ray_gpus:
        fits = [min(fit, int(node.get("GPU", 0) / settings.ray_gpus)) for fit, node in zip(fits, nodes, strict=True)]
    if not sum(fits):
        most = ", ".join(f"{node.get('CPU', 0):g} processors and {node.get('GPU', 0):g} GPUs" for node in nodes[:3])
        raise SettingsError(
            f"--ray_cpus {settings.ray_cpus}, --ray_gpus {settings.ray_gpus:g}: no machine of the cluster has as much; "
            f"they have {most}"
        )
    return settings.ray_actors or sum(fits)


def _short(fault: BaseException) -> str:
    return " ".join(str(fault).split())[:160]
