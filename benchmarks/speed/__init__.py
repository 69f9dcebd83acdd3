"""Benchmarks of speed next to lower bounds and to other libraries: `python -m benchmarks.speed data|embed|search|step`."""
