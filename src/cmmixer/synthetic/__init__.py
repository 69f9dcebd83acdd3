"""Films in which the picture causes the sound.

`world` what is in a film and the laws by which it sounds; `draw` its pictures; `hear` its sound; `films` writes mp4 files,
`arrays` renders clips without any codec, and needs none to be installed.
"""
