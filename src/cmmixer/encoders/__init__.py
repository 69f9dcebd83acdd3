"""Encoders: models that embed video and audio into one space, for embedding, search and evaluation.

`base` is the interface and the encoders of other packages, `loading` opens what `--model` names, `export` writes ONNX files,
`hub` shares runs on the Hugging Face Hub, and `pe_av` is Meta's PE-AV.
"""
