"""`cmmixer bench`: `run` the command; `embed` (with `runtimes`), `search` (with `engines`, `floors`
and the made library of `vectors`) and `step`.
"""

from cmmixer.benching.run import BenchReport, bench

__all__ = ["BenchReport", "bench"]
