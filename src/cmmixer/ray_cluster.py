"""Runs one function over many parts of some work on the actors of a Ray cluster, through Ray Data.

An actor that dies is restarted and its part is done again. Results come in the order of the parts, each once, so the caller
commits them in the order in which a single machine would.
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
Result = TypeVar("Result")

# Ray Data schedules all parts of a run beforehand; a wave of this size keeps thousands of actors busy.
_PARTS_PER_WAVE = 10_000
# Parts per actor; several, so that an actor with long videos does not hold up the end.
_PARTS_PER_ACTOR = 4
# A part that has ended this many actors will end the next one too.
_MAX_ATTEMPTS = 4
_CONNECT_SECONDS = 5.0
_PROBE_SECONDS = 30.0
# Parts and results are descriptions of a few kilobytes; frames and audio go to the tables directly.
_OBJECT_STORE_BYTES = 150 << 20


class Cluster:
    """A connected cluster.

    Args:
        ray: the library, connected.
        settings: how many actors, and what each needs.

    Raises:
        SettingsError: no machine has the resources of an actor.
    """

    def __init__(self, ray: Any, settings: ClusterSettings) -> None:
        self._ray, self._settings = ray, settings
        self.actors = _actor_count(ray, settings)

    def parts(self, items: Sequence[Part], max_size: int) -> list[Sequence[Part]]:
        """Splits items into parts of at most `max_size`; smaller ones if some actors would have nothing to do."""
        size = max(1, min(max_size, math.ceil(len(items) / (self.actors * _PARTS_PER_ACTOR))))
        return [items[start : start + size] for start in range(0, len(items), size)]

    def map(self, make: Callable[[], Callable[[Part], Result]], parts: Sequence[Part]) -> Iterator[Result]:
        """Yields `make()(part)` for each part, in the order of the parts.

        Args:
            make: called once in each actor. It is pickled: a function of a module, or a `partial` of one.
            parts: small values; frames and audio belong neither in them nor in the results.

        Raises:
            CMMixerError: an actor raised it.
            InternalError: a part ended every actor that tried it, or the cluster was lost.
        """
        for start in range(0, len(parts), _PARTS_PER_WAVE):
            yield from self._wave(make, parts[start : start + _PARTS_PER_WAVE])

    def _wave(self, make: Any, parts: Sequence[Any]) -> Iterator[Any]:
        ray = self._ray
        rows = [{"part": pickle.dumps(part)} for part in parts]
        with warnings.catch_warnings():
            # Ray 2.60 warns that retries will be set in another way from 2.64 on, but does not offer that way yet.
            warnings.simplefilter("ignore")
            results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                _Actor,
                fn_constructor_args=(make, aws_variables()),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=min(self.actors, len(parts))),
                num_cpus=self._settings.ray_cpus,
                num_gpus=self._settings.ray_gpus,
                ray_remote_args_fn=_options,
            )
        resume = "what was committed stays, run the same command again"
        try:
            for row in results.iter_rows():
                result = pickle.loads(row["result"])
                if isinstance(result, CMMixerError):
                    raise result
                yield result
        except ray.exceptions.RayActorError as error:
            raise InternalError(
                f"a part of the work ended its actor {_MAX_ATTEMPTS} times; {resume} ({_short(error)})"
            ) from error
        except (ray.exceptions.RaySystemError, ray.exceptions.RpcError, ConnectionError) as error:
            raise InternalError(f"the Ray cluster was lost; {resume} ({_short(error)})") from error


def _options() -> dict[str, int]:
    """Limits retries: Ray Data would restart lost actors and repeat their parts forever."""
    return {"max_task_retries": _MAX_ATTEMPTS - 1}


class _Actor:
    """Runs in the cluster. It calls `make` with the first part, so an error there is reported like any other.

    Args:
        make: returns the function that does the work.
        environment: variables of the caller. Ray's `runtime_env` is not used for them, since its pages and logs show it.
    """

    def __init__(self, make: Callable[[], Callable[[Any], Any]], environment: dict[str, str]) -> None:
        os.environ.update(environment)
        self._make = make
        self._work: Callable[[Any], Any] | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        return {"result": [pickle.dumps(self._result(pickle.loads(part))) for part in batch["part"]]}

    def _result(self, part: Any) -> Any:
        try:
            self._work = self._work or self._make()
            return self._work(part)
        except CMMixerError as error:
            return error


@contextmanager
def connected(settings: ClusterSettings) -> Iterator[Cluster | None]:
    """Connects to the cluster of the settings; yields None for the local engine.

    A program that is connected to Ray already stays connected.

    Raises:
        SettingsError: Ray is not installed, no cluster answers, or no machine has the resources of an actor.
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
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"--engine ray needs {error.name}, which is not installed; pip install 'cmmixer[ray]'"
        ) from error
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, settings.ray_address or os.environ.get("RAY_ADDRESS"))
    try:
        _silence(ray)
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
            _check_address(address)
            _check_connection(address)
        with warnings.catch_warnings():
            # Lance warns of forks; those of Ray become other programs at once.
            warnings.filterwarnings("ignore", message="lance is not fork-safe")
            ray.init(**options)
    except SettingsError:
        raise
    except Exception as error:  # Ray has no common base class for these errors
        if address is not None:
            raise _no_answer(address, _short(error)) from error
        raise SettingsError(f"--engine ray: no Ray cluster can be started on this machine ({_short(error)})") from error


def _no_answer(address: str, reason: str) -> SettingsError:
    return SettingsError(
        f"--ray_address: {address}: no Ray cluster answers ({reason}); start one with `ray start --head`"
    )


def _check_address(address: str) -> None:
    """Checks that something listens at the address; Ray itself would keep trying for a minute.

    Raises:
        SettingsError: nothing does, or it is not an address.
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
    except (OSError, OverflowError) as error:
        raise _no_answer(address, str(error)) from error


def _check_connection(address: str) -> None:
    """Connects in another process first: Ray never gives up on a server that is not its own or that wants a token.

    Raises:
        SettingsError: it cannot connect; the message says why.
    """
    code = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False); print(len(ray.nodes()))"
    command = [sys.executable, "-W", "ignore", "-c", code, address]
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _no_answer(address, _reason(error.stderr, f"nothing in {_PROBE_SECONDS:g} s")) from error
    if process.returncode:
        raise _no_answer(address, _reason(process.stderr, f"exit code {process.returncode}"))


def _reason(stderr: str | bytes | None, default: str) -> str:
    """Returns why Ray could not connect: a missing token, the last error in its output, or `default`."""
    text = stderr.decode("utf-8", "replace") if isinstance(stderr, bytes) else stderr or ""
    if "InvalidAuthToken" in text:
        return "it wants a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or a file ~/.ray/auth_token"
    lines = [line for line in text.splitlines() if "Error" in line]
    return lines[-1][:160] if lines else default


def _silence(ray: Any) -> None:
    """Turns off Ray Data's progress bars and reports: the command has its own."""
    import logging

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.execution_no_progress_timeout_s = -1  # a part may take hours
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _actor_count(ray: Any, settings: ClusterSettings) -> int:
    """Returns the number of actors: the one in the settings, or as many as fit on the cluster now.

    Raises:
        SettingsError: not a single one fits.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fits = [int(node.get("CPU", 0) // settings.ray_cpus) for node in nodes]
    if settings.ray_gpus:
        fits = [min(fit, int(node.get("GPU", 0) / settings.ray_gpus)) for fit, node in zip(fits, nodes, strict=True)]
    if not sum(fits):
        machines = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes[:3])
        raise SettingsError(
            f"--ray_cpus {settings.ray_cpus}, --ray_gpus {settings.ray_gpus:g}: no machine of the cluster has as much; "
            f"they have {machines}"
        )
    return settings.ray_actors or sum(fits)


def _short(error: BaseException) -> str:
    """Returns the beginning of an error's message on one line."""
    return " ".join(str(error).split())[:160]
