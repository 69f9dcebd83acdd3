"""`cmmixer bench`: `run` the command, `floors` what the machine can do at best, `vectors` a made library, `search` its subject."""

from cmmixer.benching.run import BenchReport, bench

__all__ = ["BenchReport", "bench"]
