"""`cmmixer bench`: `run` the command; `data` (with its `ceiling`, FFmpeg beside `preparing`, and `processor` time), `embed` (with
`runtimes`), `material` the films of both, `search` (with `engines`, `floors` and the made library of `vectors`) and `step`.
"""

from cmmixer.benching.run import BenchReport, bench

__all__ = ["BenchReport", "bench"]
