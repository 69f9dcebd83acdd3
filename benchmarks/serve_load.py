"""The service under load: many clients at once on loopback, and how soon one person sees the first finds.

    python -m benchmarks.serve_load --out benchmarks/results/serve-load.json

A nano retriever (untrained: what it finds means nothing, what it costs is the same), made-up films, and random moments up to
10,000. The service runs in a process of its own, the clients in this one, on the same cores. Some clients search by an item of the
library, some upload a film and search with it, some list, some fetch pictures and ranges of films, as the page does.
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
from cmmixer.runtime import machine
from cmmixer.synthetic.generate import synthesize
from cmmixer.types import Statistics

MOMENTS = 10_000
FILMS = 40
API = "/api/v1"
# Of a hundred requests of the page.
SHARES = {"search": 45, "upload": 5, "list": 10, "thumbnail": 20, "range": 20}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures once and writes the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_library(place)
        result = measure(place, options.clients, options.seconds)
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if options.out is not None:
        options.out.write_text(text)


def make_library(place: Path) -> None:
    """Films, an untrained run, and an index of `MOMENTS` moments."""
    synthesize(SynthesizeSettings(clips=FILMS, out=str(place / "films"), seed=1))
    found = preset("nano")
    clip = ClipSettings(frames=4, height=64, width=64, clip_seconds=4.0, window_seconds=1.0, sample_rate_hz=16000)
    statistics = Statistics((0.4, 0.4, 0.4), (0.2, 0.2, 0.2), -50.0, 20.0, clips=1)
    card = checkpoint.Card(
        kind="retriever", model=found.model, clip=clip, statistics=statistics, options={"embed_dim": 256}, settings={}
    )
    checkpoint.save(place / "run", card, checkpoint.build(card).state_dict(), keep=1)
    encoder = load_encoder(place / "run", "cpu")
    report = index(
        IndexSettings(model=str(place / "run"), data=str(place / "films"), index=str(place / "library"), device="cpu"),
        encoder=encoder,
    )
    chance = np.random.default_rng(0)
    with MomentIndex.writing(place / "library", encoder, None) as library:
        for number in range((MOMENTS - report.moments) // 5):
            vectors = chance.normal(size=(5, encoder.dim)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            _add(library, f"/archive/{number:05d}.mp4", vectors)


def _add(library: MomentIndex, name: str, vectors_ME: np.ndarray) -> None:
    shared = {"batch": f"{name:032}", "path": name, "audio_path": None, "source": name, "label": None}
    in_order = np.zeros(library.card.clip.frames * library.card.embed_dim, np.float16)
    rows = [
        {
            **shared,
            "id": f"{name}#{place}",
            "start_seconds": 2.0 * place,
            "end_seconds": 2.0 * place + 4.0,
            **dict.fromkeys(("video", "audio", "film"), vector),
            **dict.fromkeys(("video_frames", "audio_frames"), in_order),
        }
        for place, vector in enumerate(vectors_ME)
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


def measure(place: Path, clients: int, seconds: float) -> dict[str, Any]:
    """Starts the service, asks alone, then with many clients at once."""
    with running_service(place / "library", "--device", "cpu") as address:
        film = _ten_seconds(place)
        alone = [_first_finds(address, film) for _ in range(10)]
        load = os.getloadavg()[0]
        figures = _load(address, film, clients, seconds)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "other_load_before": round(load, 2),
        "moments": MOMENTS,
        "first_finds_of_10_s_query_seconds": {"median": float(np.median(alone)), "worst": max(alone)},
        "clients": clients,
        "seconds": seconds,
        **figures,
    }


def _ten_seconds(place: Path) -> bytes:
    """A film of ten seconds: a made-up one, over and over."""
    from cmmixer.media.decode import Film
    from cmmixer.media.encode import write_film

    source = sorted((place / "films").rglob("*.mp4"))[0]
    with Film.open(source) as film:
        length = film.info.duration_seconds
        frames = film.frames(np.arange(0, length, 1 / 12.5), 128, 128).pixels_THWC
        sound = film.sound_windows([length / 2], length, 16000).samples_TN[0]
    times = int(10 / length) + 1
    path = place / "query.mp4"
    write_film(path, np.concatenate([frames] * times)[:125], 12.5, np.concatenate([sound] * times)[:160000], 16000)
    return path.read_bytes()


def _first_finds(address: str, film: bytes) -> float:
    with httpx2.Client(base_url=address, timeout=60) as http:
        began = time.perf_counter()
        query = http.post(f"{API}/queries", content=film).raise_for_status().json()["id"]
        http.get(f"{API}/search", params={"query": query}).raise_for_status()
        return time.perf_counter() - began


def _load(address: str, film: bytes, clients: int, seconds: float) -> dict[str, Any]:
    """Every client asks as fast as it is answered."""
    times: dict[str, list[float]] = defaultdict(list)
    errors: list[str] = []
    with httpx2.Client(base_url=address, timeout=60) as http:
        everything = http.get(f"{API}/items", params={"limit": 500}).json()["items"]
        here = [item["id"] for item in everything if not item["missing"]]
        known = [item["id"] for item in everything]
    end = time.perf_counter() + seconds

    def client(seed: int) -> None:
        chance = random.Random(seed)
        kinds = list(itertools.chain.from_iterable([kind] * share for kind, share in SHARES.items()))
        with httpx2.Client(base_url=address, timeout=60) as http:
            while time.perf_counter() < end:
                kind = chance.choice(kinds)
                began = time.perf_counter()
                try:
                    _ask(http, kind, chance, known, here, film)
                except Exception as fault:
                    errors.append(f"{kind}: {type(fault).__name__} {fault}"[:200])
                times[kind].append(time.perf_counter() - began)

    _run_all([lambda seed=seed: client(seed) for seed in range(clients)])
    every = list(itertools.chain.from_iterable(times.values()))
    return {
        "requests": len(every),
        "requests_per_second": round(len(every) / seconds, 1),
        "errors": len(errors),
        "first_errors": errors[:5],
        "all": _percentiles(every),
        **{kind: _percentiles(values) for kind, values in sorted(times.items())},
    }


def _run_all(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _ask(http: httpx2.Client, kind: str, chance: random.Random, known: list[str], here: list[str], film: bytes) -> None:
    if kind == "upload":
        query = http.post(f"{API}/queries", content=film).raise_for_status().json()["id"]
        http.get(f"{API}/search", params={"query": query}).raise_for_status()
    elif kind == "search":
        wanted = {"item": chance.choice(known), "start_seconds": 2, "for": chance.choice(["audio", "video", "film"])}
        http.get(f"{API}/search", params=wanted).raise_for_status()
    elif kind == "list":
        http.get(f"{API}/items", params={"sort": "-duration", "limit": 60}).raise_for_status()
    elif kind == "thumbnail":
        http.get(f"{API}/items/{chance.choice(here)}/thumbnail").raise_for_status()
    else:
        answer = http.get(f"{API}/items/{chance.choice(here)}/media", headers={"range": "bytes=0-65535"})
        assert answer.status_code == 206


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
