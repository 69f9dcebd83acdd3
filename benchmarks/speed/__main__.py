"""The command line: `python -m benchmarks.speed data|embed|search|step`."""

from __future__ import annotations

import sys

from benchmarks.speed.settings import BenchSettings
from cmmixer.cli.commands import Command
from cmmixer.cli.main import run_command

BENCH = Command(
    "bench",
    BenchSettings,
    "benchmarks.speed.bench:bench",
    "python -m benchmarks.speed search --rows 1000000 --dim 256\n"
    "  python -m benchmarks.speed step --preset base --precision bf16-mixed --compile\n"
    "  python -m benchmarks.speed data --videos ~/videos\n"
    "  python -m benchmarks.speed embed --preset nano --batch_size 32 --rounds 5",
    extra="bench",
    program="python -m benchmarks.speed",
    positionals=("what",),
)

if __name__ == "__main__":
    sys.exit(run_command(BENCH, sys.argv[1:]))
