"""Media files to unit vectors: the decoding and batching pipeline, the Python model, and `cmmixer embed` with its files."""
