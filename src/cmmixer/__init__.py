"""CMMixer learns which sound belongs to which picture, and makes a folder of videos searchable.

    import cmmixer

    model = cmmixer.load("runs/quickstart/finetune")
    model.encode_video(["silent.mp4"])               # unit vectors, float32 [1, E]

    index = cmmixer.Index("library")
    index.add(model, "videos/")
    index.search("silent.mp4", target="audio", k=5)  # hits with path, start_seconds, end_seconds, score

    cmmixer.pretrain(data="videos/", epochs=20)      # every command is a function of the same name

The public names are listed in `__init__.pyi`, for type checkers and for this module. Each is imported when it is first used, so
`import cmmixer` costs nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
