"""`cmmixer bench`: `run` the command, `step` its subject."""

from cmmixer.benching.run import BenchReport, bench

__all__ = ["BenchReport", "bench"]
