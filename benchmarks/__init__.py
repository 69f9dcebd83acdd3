"""Benchmarks and studies. Each script stores its results in `results/` and writes the documents that show them."""
