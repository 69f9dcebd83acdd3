"""A page and an HTTP service over an index.

`run` the command, `service` what it holds, `app` the application, `routes_*` its endpoints, `guard` who may call them,
`schema` what travels, `problems` what goes wrong; `entry` a file with an id, `library` all of them, `finding` searches,
`queries` uploads, `previews` thumbnails and waveforms, `playback` what a browser is given to play, which `playable` and
`conversion` decide and make, `cache` what is made once, `media` files in ranges, `taking` films with their new sound and
cut lists, `folders` and `jobs` indexing from outside, `metrics` figures; `client` the same from Python, `process` the
command in a process of its own; `page/` the page.
"""
