"""Synthetic videos in which everything that sounds is seen, for tests, demos and studies.

`world` holds the objects and the laws by which they sound, `scene` draws them at random, `render` and `audio` turn a scene into
frames and samples with numpy only, and `generate` writes mp4 files.
"""
