"""How does the service perform under load, with many clients at once on loopback, and how soon does one user see the first results?

    python -m benchmarks.serve_load --out benchmarks/results/serve-load.json

The library has synthetic videos and random moments, 10,000 in all, and an untrained nano retriever, whose results mean nothing but cost
the same. The service runs in its own process, the clients in this one, on the same cores. As on the web page, some clients search by an
item of the library, some upload a video and search with it, some list items, some fetch thumbnails and ranges of videos.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from benchmarks.service_process import running_service
from cmmixer import checkpoint
from cmmixer.config import ClipSettings, IndexSettings, SynthesizeSettings, preset
from cmmixer.encoders.loading import load_encoder
from cmmixer.retrieval.build import index
from cmmixer.retrieval.index import MomentIndex
from cmmixer.retrieval.schema import FileRow
from cmmixer.runtime import describe_machine
from cmmixer.synthetic.generate import synthesize
from cmmixer.types import Statistics

MOMENTS = 10_000
VIDEOS = 40
API = "/api/v1"
# Requests per hundred.
WEIGHTS = {"search": 45, "upload": 5, "list": 10, "thumbnail": 20, "range": 20}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures once and stores the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_library(folder)
        result = measure(folder, options.clients, options.seconds)
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if options.out is not None:
        options.out.write_text(text)


def make_library(folder: Path) -> None:
    """Makes videos, an untrained run, and an index of `MOMENTS` moments."""
    synthesize(SynthesizeSettings(clips=VIDEOS, out=str(folder / "videos"), seed=1))
    found = preset("nano")
    clip = ClipSettings(frames=4, height=64, width=64, clip_seconds=4.0, window_seconds=1.0, sample_rate_hz=16000)
    statistics = Statistics((0.4, 0.4, 0.4), (0.2, 0.2, 0.2), -50.0, 20.0, clips=1)
    metadata = checkpoint.Metadata(
        kind="retriever", model=found.model, clip=clip, statistics=statistics, options={"embed_dim": 256}, settings={}
    )
    checkpoint.save(folder / "run", metadata, checkpoint.build(metadata).state_dict(), keep=1)
    encoder = load_encoder(folder / "run", "cpu")
    report = index(
        IndexSettings(
            model=str(folder / "run"), data=str(folder / "videos"), index=str(folder / "library"), device="cpu"
        ),
        encoder=encoder,
    )
    generator = np.random.default_rng(0)
    with MomentIndex.writing(folder / "library", encoder, None) as library:
        for number in range((MOMENTS - report.moments) // 5):
            vectors = generator.normal(size=(5, encoder.dim)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            _add(library, f"/archive/{number:05d}.mp4", vectors)


def _add(library: MomentIndex, name: str, vectors_ME: np.ndarray) -> None:
    shared = {"batch": f"{name:032}", "path": name, "audio_path": None, "source": name, "label": None}
    frame_vectors = np.zeros(library.metadata.clip.frames * library.metadata.embed_dim, np.float16)
    rows = [
        {
            **shared,
            "id": f"{name}#{number}",
            "start_seconds": 2.0 * number,
            "end_seconds": 2.0 * number + 4.0,
            **dict.fromkeys(("video", "audio", "any"), vector),
            **dict.fromkeys(("video_frames", "audio_frames"), frame_vectors),
        }
        for number, vector in enumerate(vectors_ME)
    ]
    values = {
        "root": "/archive",
        "sizes": [1],
        "mtimes_ns": [1],
        "sha256": None,
        "status": "used",
        "limit_seconds": 60.0,
    }
    library.put(FileRow(name=name, **{**shared, **values}, reason=None, message=None, moments=len(rows)), rows, None)


def measure(folder: Path, clients: int, seconds: float) -> dict[str, Any]:
    """Starts the service and measures one client, then many at once."""
    with running_service(folder / "library", "--device", "cpu") as address:
        video = _ten_second_video(folder)
        single = [_first_results(address, video) for _ in range(10)]
        load = os.getloadavg()[0]
        figures = _load(address, video, clients, seconds)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe_machine(),
        "other_load_before": round(load, 2),
        "moments": MOMENTS,
        "first_results_of_10_s_query_seconds": {"median": float(np.median(single)), "worst": max(single)},
        "clients": clients,
        "seconds": seconds,
        **figures,
    }


def _ten_second_video(folder: Path) -> bytes:
    """Makes a video of ten seconds by repeating a synthetic one."""
    from cmmixer.media.decode import MediaFile
    from cmmixer.media.encode import write_video

    source = sorted((folder / "videos").rglob("*.mp4"))[0]
    with MediaFile.open(source) as video:
        length = video.info.duration_seconds
        frames = video.frames(np.arange(0, length, 1 / 12.5), 128, 128).pixels_THWC
        sound = video.audio_windows([length / 2], length, 16000).samples_TN[0]
    times = int(10 / length) + 1
    path = folder / "query.mp4"
    write_video(path, np.concatenate([frames] * times)[:125], 12.5, np.concatenate([sound] * times)[:160000], 16000)
    return path.read_bytes()


def _first_results(address: str, video: bytes) -> float:
    with httpx2.Client(base_url=address, timeout=60) as http:
        began = time.perf_counter()
        query = http.post(f"{API}/queries", content=video).raise_for_status().json()["id"]
        http.get(f"{API}/search", params={"query": query}).raise_for_status()
        return time.perf_counter() - began


def _load(address: str, video: bytes, clients: int, seconds: float) -> dict[str, Any]:
    """Runs all clients; each sends its next request as soon as it has a response."""
    times: dict[str, list[float]] = defaultdict(list)
    errors: list[str] = []
    with httpx2.Client(base_url=address, timeout=60) as http:
        items = http.get(f"{API}/items", params={"limit": 500}).json()["items"]
        existing = [item["id"] for item in items if not item["missing"]]
        all_ids = [item["id"] for item in items]
    end = time.perf_counter() + seconds

    def client(seed: int) -> None:
        generator = random.Random(seed)
        kinds = list(itertools.chain.from_iterable([kind] * weight for kind, weight in WEIGHTS.items()))
        with httpx2.Client(base_url=address, timeout=60) as http:
            while time.perf_counter() < end:
                kind = generator.choice(kinds)
                began = time.perf_counter()
                try:
                    _request(http, kind, generator, all_ids, existing, video)
                except Exception as error:
                    errors.append(f"{kind}: {type(error).__name__} {error}"[:200])
                times[kind].append(time.perf_counter() - began)

    _run_in_threads([lambda seed=seed: client(seed) for seed in range(clients)])
    all_times = list(itertools.chain.from_iterable(times.values()))
    return {
        "requests": len(all_times),
        "requests_per_second": round(len(all_times) / seconds, 1),
        "errors": len(errors),
        "first_errors": errors[:5],
        "all": _percentiles(all_times),
        **{kind: _percentiles(values) for kind, values in sorted(times.items())},
    }


def _run_in_threads(functions: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _request(
    http: httpx2.Client, kind: str, generator: random.Random, all_ids: list[str], existing: list[str], video: bytes
) -> None:
    if kind == "upload":
        query = http.post(f"{API}/queries", content=video).raise_for_status().json()["id"]
        http.get(f"{API}/search", params={"query": query}).raise_for_status()
    elif kind == "search":
        parameters = {
            "item": generator.choice(all_ids),
            "start_seconds": 2,
            "for": generator.choice(["audio", "video", "any"]),
        }
        http.get(f"{API}/search", params=parameters).raise_for_status()
    elif kind == "list":
        http.get(f"{API}/items", params={"sort": "-duration", "limit": 60}).raise_for_status()
    elif kind == "thumbnail":
        http.get(f"{API}/items/{generator.choice(existing)}/thumbnail").raise_for_status()
    else:
        response = http.get(f"{API}/items/{generator.choice(existing)}/media", headers={"range": "bytes=0-65535"})
        assert response.status_code == 206


def _percentiles(values: list[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {
        "count": len(values),
        "p50": round(p50, 4),
        "p95": round(p95, 4),
        "p99": round(p99, 4),
        "worst": round(max(values), 4),
    }


if __name__ == "__main__":
    main()
