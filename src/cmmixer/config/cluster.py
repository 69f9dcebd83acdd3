"""Where the work of many films is done: in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass

from cmmixer.config.check import at_least, one_of, within
from cmmixer.errors import SettingsError

ENGINES = ("local", "ray")


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """Which machines do the work.

    Attributes:
        engine: local, processes of this machine; ray, actors of a Ray cluster
        ray_address: of the cluster this machine is in, HOST:PORT or auto; default: $RAY_ADDRESS, or one started here
        ray_actors: how many; 0: as many as the cluster has room for
        ray_cpus: processors of an actor
        ray_gpus: GPUs of an actor; half a GPU is 0.5
    """

    engine: str = "local"
    ray_address: str | None = None
    ray_actors: int = 0
    ray_cpus: int = 1
    ray_gpus: float = 0.0

    def __post_init__(self) -> None:
        one_of("engine", self.engine, ENGINES)
        at_least("ray_actors", self.ray_actors, 0)
        at_least("ray_cpus", self.ray_cpus, 1)
        within("ray_gpus", self.ray_gpus, 0.0, 64.0)
        if self.ray_address is not None and self.engine != "ray":
            raise SettingsError(f"--ray_address {self.ray_address}: is of --engine ray; got --engine {self.engine}")
