"""A page and an HTTP service over an index.

`run` the command, `service` what it holds, `app` the application, `routes_*` its endpoints, `guard` who may call them, `schema` what
travels, `problems` what goes wrong; `library` files with ids, `finding` searches, `queries` uploads, `previews` thumbnails and waveforms,
`media` files in ranges, `taking` films with their new sound and cut lists, `folders` and `jobs` indexing from outside, `metrics` figures; `client` the same from Python; `page/` the page.
"""
