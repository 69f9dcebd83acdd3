"""The page and the HTTP service over an index.

Start here:

- `serve`: the command `cmmixer serve`, from settings to a running server.
- `service`: everything a running service holds (index, model, uploads, jobs); `app`: the FastAPI application over it.
- `routes_search`, `routes_index`, `routes_media`: the endpoints, in three groups.
- `schemas/`: requests and responses; `problems`: errors as problem JSON; `auth`: who may call the service.

Behind the endpoints:

- `library`: the indexed files and the folders that may be indexed; `entry`: one file of the library.
- `search`: searches; `uploads`: files that were uploaded to search with.
- `jobs`: folders being indexed in the background.
- `previews`: thumbnails and waveforms; `playback`: what a browser can play; `transcode`: converting what it cannot play.
- `files`: files over HTTP, in ranges; `cache`: previews and conversions on disk.
- `exports`: dubbed videos and cut lists.
- `metrics`: counters for Prometheus.

In front of them: `client` is the same interface in Python, `page/` is the page (HTML, CSS and JavaScript, no build step).
"""
