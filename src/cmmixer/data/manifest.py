"""Layouts of data: which media files there are, and the name, split, source and label of each.

Four layouts are supported. A folder is recognized by its contents; the first match counts:

    a folder with `manifest.csv` or `manifest.jsonl`, or such a file itself     columns: `COLUMNS`, `path` is required
    a folder with `*.list` files (Kinetics), or such a file itself              lines `path label`
    `split/{video,audio}/` (VMR), or one such split                             paired by stem
    any other folder                                                            its media files, recursively

No media file is opened here. A row whose file is missing is reported when the file is decoded.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cmmixer.data.skips import Skip
from cmmixer.errors import DataError
from cmmixer.types import Span

COLUMNS = ("path", "audio_path", "start_seconds", "end_seconds", "label", "split", "source")

# fmt: off
VIDEO_ENDINGS = frozenset((
    "3g2", "3gp", "asf", "avi", "dv", "f4v", "flv", "gif", "m2ts", "m2v", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg",
    "mts", "mxf", "nut", "ogm", "ogv", "rm", "rmvb", "ts", "vob", "webm", "wmv", "y4m",
))

AUDIO_ENDINGS = frozenset((
    "aac", "ac3", "aif", "aiff", "alac", "amr", "ape", "au", "caf", "dts", "flac", "m4a", "mka", "mp2", "mp3", "mpc",
    "oga", "ogg", "opus", "spx", "tak", "tta", "wav", "wma", "wv",
))

# fmt: on
LIST_ENDINGS = (".csv", ".jsonl", ".list")


@dataclass(frozen=True)
class Entry:
    """One media file, or one stretch of it, as a layout names it.

    Attributes:
        path: the file to open.
        name: the path as it is written in ids: relative to the data's folder if possible, with `/` between its parts.
        source: the video it was cut from; data splits keep a source together. Default: the name without its ending.
        audio_path: a file to take the audio from, instead of the video's own audio.
        audio_name: the same as `name`, for `audio_path`.
        start_seconds, end_seconds: only this stretch of the file is used.
        label: class name.
        split: the part of the data it belongs to.
        extra: the manifest's other columns, unchanged.
    """

    path: str
    name: str
    source: str
    audio_path: str | None = None
    audio_name: str | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None
    label: str | None = None
    split: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Identifies the entry among all entries of its data: file, audio file and stretch."""
        audio = "" if self.audio_name is None else f"+{self.audio_name}"
        if self.start_seconds is None and self.end_seconds is None:
            return self.name + audio
        end = "" if self.end_seconds is None else f"{self.end_seconds:.3f}"
        return f"{self.name}{audio}@{self.start_seconds or 0.0:.3f}-{end}"


@dataclass(frozen=True)
class Listing:
    """Contents of a layout: `entries` to decode, and the files that are `ignored`, with the reason."""

    entries: list[Entry]
    ignored: list[Skip]


def clip_id(entry: Entry, span: Span) -> str:
    """Returns `name#start-end` in seconds; `name+audio#start-end` if the audio comes from another file."""
    audio = "" if entry.audio_name is None else f"+{entry.audio_name}"
    return f"{entry.name}{audio}#{span.start_seconds:.3f}-{span.end_seconds:.3f}"


def read_manifest(data: str | Path, split: str | None = None) -> list[Entry]:
    """Returns all entries of a layout, in a fixed order; see `read_layout`."""
    return read_layout(data, split).entries


def read_layout(data: str | Path, split: str | None = None) -> Listing:
    """Reads any of the four layouts.

    Args:
        data: a folder, a manifest or a list.
        split: keep only this split.

    Raises:
        DataError: no such data, no media files in it, or a manifest or list that cannot be read; names the line.
    """
    root = Path(data)
    if root.is_dir():
        listing = _read_folder(root)
    elif root.exists():
        listing = _read_file(root)
    else:
        raise DataError(
            f"{data}: no such file or folder; give a folder of videos, a manifest, a *.list file or a store"
        )
    if not listing.entries:
        raise DataError(
            f"{data}: no videos or audio files in it; looked for {_some_endings()} and others, in all folders"
        )
    return listing if split is None else Listing(_of_split(listing.entries, split, root), listing.ignored)


def split_by_source(entries: Iterable[Entry], fraction: float, seed: int) -> tuple[list[Entry], list[Entry]]:
    """Splits entries into (train, gallery) so that no source video is on both sides.

    The side of a source depends on a hash of its name and the seed only, not on the order of the entries.

    Args:
        entries: videos of at least two sources.
        fraction: fraction of the sources that goes to the gallery, in (0, 1).
        seed: of the hash.

    Raises:
        DataError: fewer than two sources, or a fraction outside (0, 1).
    """
    entries = list(entries)
    sources = sorted({entry.source for entry in entries}, key=lambda source: _hash(f"{seed}:{source}"))
    if not 0.0 < fraction < 1.0:
        raise DataError(f"a gallery needs a fraction of the videos in (0, 1); got {fraction}")
    if len(sources) < 2:
        raise DataError(f"cannot split {len(sources)} source videos into train and gallery; give 2 or more")
    count = min(max(round(fraction * len(sources)), 1), len(sources) - 1)
    gallery = set(sources[:count])
    return [e for e in entries if e.source not in gallery], [e for e in entries if e.source in gallery]


def distinct(entries: list[Entry]) -> tuple[list[Entry], list[Skip]]:
    """Removes entries that name the same stretch of the same file again; they are returned as skips."""
    seen: dict[str, Entry] = {}
    repeated = []
    for entry in entries:
        if seen.setdefault(entry.key, entry) is not entry:
            repeated.append(
                Skip(readable(entry.path), "duplicate", "the same stretch of the same file is listed before")
            )
    return list(seen.values()), repeated


def is_media(path: str | Path) -> bool:
    """Whether a file's ending is that of a video or audio file."""
    ending = Path(path).suffix[1:].lower()
    return ending in VIDEO_ENDINGS or ending in AUDIO_ENDINGS


def readable(path: str | Path) -> str:
    """Returns a path as valid UTF-8: other bytes of a file name are written in hexadecimal."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def absolute(entry: Entry) -> Entry:
    """Returns the entry with absolute paths, for a process with another working directory; its names and key stay."""
    audio = None if entry.audio_path is None else os.path.abspath(entry.audio_path)
    return replace(entry, path=os.path.abspath(entry.path), audio_path=audio)


def _read_folder(root: Path) -> Listing:
    if (root / "store.json").is_file():
        raise DataError(f"{root}: a clip store, not videos; give it as --data of pretrain, finetune or evaluate")
    for name in ("manifest.csv", "manifest.jsonl"):
        if (root / name).is_file():
            return _read_table(root / name)
    lists = sorted(path for path in root.glob("*.list") if not path.name.startswith("."))
    if lists:
        return Listing([entry for path in lists for entry in _read_list(path)], [])
    pairs = _pair_folders(root)
    if pairs:
        return _read_pairs(root, pairs)
    return _read_videos(root)


def _read_file(path: Path) -> Listing:
    ending = path.suffix.lower()
    if ending in (".csv", ".jsonl"):
        return _read_table(path)
    if ending == ".list":
        return Listing(_read_list(path), [])
    if is_media(path):
        return Listing([_entry(path.parent, Path(path.name))], [])
    raise DataError(f"{path}: got a file ending in {ending!r}, expected a folder or one of {', '.join(LIST_ENDINGS)}")


def _of_split(entries: list[Entry], split: str, root: Path) -> list[Entry]:
    chosen = [entry for entry in entries if entry.split == split]
    if not chosen:
        names = sorted({entry.split for entry in entries if entry.split is not None})
        message = f"its splits: {', '.join(names)}" if names else "it has no splits; leave --split out"
        raise DataError(f"{root}: no video of split {split!r}; {message}")
    return chosen


def _read_videos(root: Path) -> Listing:
    entries: list[Entry] = []
    ignored: list[Skip] = []
    for path in _walk(root, set(), ignored):
        if is_media(path):
            entries.append(_entry(root, path.relative_to(root)))
        else:
            message = f"its ending {path.suffix!r} is not that of a video or audio file; list it in a manifest to have it tried"
            ignored.append(Skip(readable(path), "not-media", message))
    return Listing(entries, ignored)


def _walk(folder: Path, seen: set[tuple[int, int]], ignored: list[Skip]) -> Iterator[Path]:
    """Yields the visible files below a folder, sorted. Links are followed; each folder is entered once, since links may loop."""
    try:
        status = folder.stat()
        children = sorted(folder.iterdir())
    except OSError as error:
        ignored.append(Skip(readable(folder), "unreadable", f"the folder cannot be listed: {error.strerror}"))
        return
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    visible = [child for child in children if not child.name.startswith(".")]
    if not visible and is_media(folder):
        yield folder  # an empty folder that is named like a video: decoding will report it
    for child in visible:
        if os.path.isdir(child):
            yield from _walk(child, seen, ignored)
        else:
            yield child


def _pair_folders(root: Path) -> list[tuple[str | None, Path]]:
    """Returns the folders that hold `video/` and `audio/`, each with the split it stands for."""
    if (root / "video").is_dir() and (root / "audio").is_dir():
        return [(None, root)]
    folders = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    return [(child.name, child) for child in folders if (child / "video").is_dir() and (child / "audio").is_dir()]


def _read_pairs(root: Path, pairs: list[tuple[str | None, Path]]) -> Listing:
    entries: list[Entry] = []
    ignored: list[Skip] = []
    for split, folder in pairs:
        videos, audio_files = (_by_stem(folder / modality, ignored) for modality in ("video", "audio"))
        for stem, video in videos.items():
            # Without a partner the expected name stays, so that decoding reports it as missing.
            audio = audio_files.get(stem, folder / "audio" / stem).relative_to(root)
            entries.append(_entry(root, video.relative_to(root), audio=audio, split=split, source=readable(stem)))
        for stem in sorted(set(audio_files) - set(videos)):
            message = f"no video named {readable(stem)}.* in {readable(folder / 'video')}"
            ignored.append(Skip(readable(audio_files[stem]), "missing", message))
    return Listing(entries, ignored)


def _by_stem(folder: Path, ignored: list[Skip]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in filter(is_media, _walk(folder, set(), ignored)):
        first = files.setdefault(str(path.relative_to(folder).with_suffix("")), path)
        if first != path:
            ignored.append(Skip(readable(path), "duplicate", f"the same stem as {readable(first)}"))
    return files


def _read_list(path: Path) -> list[Entry]:
    """Reads a Kinetics list: one `path label` per line. The label follows the last space, so paths may contain spaces."""
    entries = []
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        video, _, label = line.strip().rpartition(" ")
        if not video.strip():
            raise DataError(f"{path}, line {number}: got {line.strip()!r}, expected a path, a space and a label")
        entries.append(_entry(path.parent, Path(video.strip()), label=label, split=path.stem))
    return entries


def _read_table(path: Path) -> Listing:
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)
    entries = [_table_entry(path, number, row) for number, row in rows]
    if not entries:
        raise DataError(f"{path}: no rows in it; expected one row per video, with the column 'path'")
    return Listing(entries, [])


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(_read_text(path), newline=""), strict=True)
    try:
        if "path" not in (reader.fieldnames or []):
            raise DataError(f"{path}: no column 'path'; got the columns {', '.join(reader.fieldnames or []) or 'none'}")
        for row in reader:
            if None in row:
                raise DataError(f"{path}, line {reader.line_num}: more values than the {len(row) - 1} columns")
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV: {error}") from error


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: got {line.strip()[:40]!r}, expected an object with the key 'path'")
        yield number, row


def _table_entry(path: Path, number: int, row: dict[str, Any]) -> Entry:
    where = f"{path}, line {number}"
    video = _text(row.get("path"))
    if video is None:
        raise DataError(f"{where}: no 'path'; every row needs one")
    audio = _text(row.get("audio_path"))
    start, end = (_seconds(row.get(name), name, where) for name in ("start_seconds", "end_seconds"))
    if end is not None and end <= (start or 0.0):
        raise DataError(f"{where}: end_seconds: got {end}, expected more than start_seconds, {start or 0.0}")
    return _entry(
        path.parent,
        Path(video),
        audio=None if audio is None else Path(audio),
        start_seconds=start,
        end_seconds=end,
        label=_text(row.get("label")),
        split=_text(row.get("split")),
        source=_text(row.get("source")),
        extra={name: value for name, value in row.items() if name not in COLUMNS},
    )


def _text(value: object) -> str | None:
    """Returns a cell's text, or None for an empty cell or JSON's null."""
    return None if value is None or str(value).strip() == "" else str(value).strip()


def _seconds(value: object, name: str, where: str) -> float | None:
    text = _text(value)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0.0):
        raise DataError(f"{where}: {name}: got {text!r}, expected seconds, 0 or more")
    return seconds


def _entry(root: Path, path: Path, *, audio: Path | None = None, source: str | None = None, **values: Any) -> Entry:
    """Makes an entry; relative paths count from `root`."""
    name = _name(root, path)
    return Entry(
        path=str(root / path),
        name=name,
        source=str(Path(name).with_suffix("")) if source is None else source,
        audio_path=None if audio is None else str(root / audio),
        audio_name=None if audio is None else _name(root, audio),
        **values,
    )


def _name(root: Path, path: Path) -> str:
    full = root / path
    inside = full.relative_to(root) if full.is_relative_to(root) else full
    return readable(inside.as_posix())


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _some_endings() -> str:
    return ", ".join(f"*.{ending}" for ending in ("mp4", "mkv", "mov", "webm", "wav", "mp3"))
