"""From films to unit vectors: `batch` asks the model, `films` is the machinery around it, `run` the Python face, `table` the command;
`parquet` and `storage` are its file. The models are `encoders`.
"""
