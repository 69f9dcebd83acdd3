"""`cmmixer bench`: `run` the command, `step` a training step, `arithmetic` what a step costs on paper."""

from cmmixer.benching.run import BenchReport, bench

__all__ = ["BenchReport", "bench"]
