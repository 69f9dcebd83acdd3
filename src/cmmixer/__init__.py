"""CMMixer learns which sound belongs to which picture, and turns a folder of videos into a search engine.

    import cmmixer
    model = cmmixer.load("runs/quickstart/finetune")
    model.encode_video(["silent.mp4"])     # float32 [1, E], unit length
    cmmixer.mix(video, audio, mode="image", generator=generator)

The public names are listed in `__init__.pyi`, for type checkers and for this module. Each is imported when it is first used, so
`import cmmixer` costs nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
