"""Speeds measured beside what they cannot be better than: `python -m benchmarks.speed data|embed|search|step`."""
