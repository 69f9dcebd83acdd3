"""Layouts in, entries out: which films there are, what they are called, which split and source they belong to.

Four layouts are understood; a folder is recognised by what lies in it, first match first:

    a folder with `manifest.csv` or `manifest.jsonl`, or such a file itself     columns: `COLUMNS`, `path` needed
    a folder with `*.list` files (Kinetics), or such a file itself              lines `path label`
    `split/{video,audio}/` (VMR), or one such split                             paired by stem
    any other folder                                                            its films and sounds, recursively

Nothing is opened here: a row whose file is gone is found when films are decoded, and listed then.
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
FILM_ENDINGS = frozenset((
    "3g2", "3gp", "asf", "avi", "dv", "f4v", "flv", "gif", "m2ts", "m2v", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg",
    "mts", "mxf", "nut", "ogm", "ogv", "rm", "rmvb", "ts", "vob", "webm", "wmv", "y4m",
))

SOUND_ENDINGS = frozenset((
    "aac", "ac3", "aif", "aiff", "alac", "amr", "ape", "au", "caf", "dts", "flac", "m4a", "mka", "mp2", "mp3", "mpc",
    "oga", "ogg", "opus", "spx", "tak", "tta", "wav", "wma", "wv",
))

# fmt: on
LIST_ENDINGS = (".csv", ".jsonl", ".list")


@dataclass(frozen=True)
class Entry:
    """One film, or one stretch of a film, as a layout names it.

    Attributes:
        path: the file, ready to be opened.
        name: the path as it is written in ids: relative to the data's folder where possible, `/` between its parts.
        source: the film it was cut from; splits never cut through a source. Default: the name without its ending.
        audio_path: a file to take the sound from, instead of the film's own sound.
        audio_name: the same as `name`, for `audio_path`.
        start_seconds, end_seconds: only this stretch of the film is used.
        label: a class name.
        split: the part of the data it belongs to.
        extra: the manifest's other columns, untouched.
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
        """Names the entry among all entries of its data: file, sound file and stretch."""
        sound = "" if self.audio_name is None else f"+{self.audio_name}"
        if self.start_seconds is None and self.end_seconds is None:
            return self.name + sound
        end = "" if self.end_seconds is None else f"{self.end_seconds:.3f}"
        return f"{self.name}{sound}@{self.start_seconds or 0.0:.3f}-{end}"


@dataclass(frozen=True)
class Listing:
    """What a layout holds: `entries` to decode, and files that `ignored` tells why they are none."""

    entries: list[Entry]
    ignored: list[Skip]


def clip_id(entry: Entry, span: Span) -> str:
    """`name#start-end` in seconds; `name+audio#start-end` where the sound comes from another file."""
    sound = "" if entry.audio_name is None else f"+{entry.audio_name}"
    return f"{entry.name}{sound}#{span.start_seconds:.3f}-{span.end_seconds:.3f}"


def read_manifest(data: str | Path, split: str | None = None) -> list[Entry]:
    """All entries of a layout, in a fixed order; see `read_layout`."""
    return read_layout(data, split).entries


def read_layout(data: str | Path, split: str | None = None) -> Listing:
    """Reads any of the four layouts.

    Args:
        data: a folder, a manifest or a list.
        split: keep only this split.

    Raises:
        DataError: nothing there, nothing recognised, or a manifest or list that cannot be read; names the line.
    """
    root = Path(data)
    if root.is_dir():
        listing = _read_folder(root)
    elif root.exists():
        listing = _read_file(root)
    else:
        raise DataError(f"{data}: no such file or folder; give a folder of films, a manifest, a *.list file or a store")
    if not listing.entries:
        raise DataError(f"{data}: no films or sounds in it; looked for {_some_endings()} and others, in all folders")
    return listing if split is None else Listing(_of_split(listing.entries, split, root), listing.ignored)


def split_by_source(entries: Iterable[Entry], fraction: float, seed: int) -> tuple[list[Entry], list[Entry]]:
    """Splits entries into (train, gallery) so that no source film is on both sides.

    A source's side depends on its name and the seed only, through a hash: not on the order of the entries.

    Args:
        entries: films; at least two sources.
        fraction: part of the sources that goes to the gallery, in (0, 1).
        seed: another seed, another split.

    Raises:
        DataError: fewer than two sources, or a fraction outside (0, 1).
    """
    entries = list(entries)
    sources = sorted({entry.source for entry in entries}, key=lambda source: _hash(f"{seed}:{source}"))
    if not 0.0 < fraction < 1.0:
        raise DataError(f"a gallery needs a part of the films in (0, 1); got {fraction}")
    if len(sources) < 2:
        raise DataError(f"cannot split {len(sources)} source film into train and gallery; at least 2 are needed")
    count = min(max(round(fraction * len(sources)), 1), len(sources) - 1)
    gallery = set(sources[:count])
    return [e for e in entries if e.source not in gallery], [e for e in entries if e.source in gallery]


def is_media(path: str | Path) -> bool:
    """Whether a file's ending says that it is a film or a sound."""
    ending = Path(path).suffix[1:].lower()
    return ending in FILM_ENDINGS or ending in SOUND_ENDINGS


def readable(path: str | Path) -> str:
    """A path that any text file can hold: bytes of a file name that are not UTF-8 are written in hexadecimal."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def absolute(entry: Entry) -> Entry:
    """The same entry for a process with another working directory; its names and key stay."""
    audio = None if entry.audio_path is None else os.path.abspath(entry.audio_path)
    return replace(entry, path=os.path.abspath(entry.path), audio_path=audio)


# ---------------------------------------------------------------------------------------------- which layout it is


def _read_folder(root: Path) -> Listing:
    if (root / "store.json").is_file():
        raise DataError(f"{root}: a clip store, not films; give it to --data of pretrain, finetune or evaluate")
    for name in ("manifest.csv", "manifest.jsonl"):
        if (root / name).is_file():
            return _read_table(root / name)
    lists = sorted(path for path in root.glob("*.list") if not path.name.startswith("."))
    if lists:
        return Listing([entry for path in lists for entry in _read_list(path)], [])
    pairs = _pair_folders(root)
    if pairs:
        return _read_pairs(root, pairs)
    return _read_films(root)


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
        there = sorted({entry.split for entry in entries if entry.split is not None})
        told = f"splits there: {', '.join(there)}" if there else "it has no splits; leave --split out"
        raise DataError(f"{root}: no film of split {split!r}; {told}")
    return chosen


# ------------------------------------------------------------------------------------------------- a folder of films


def _read_films(root: Path) -> Listing:
    entries: list[Entry] = []
    ignored: list[Skip] = []
    for path in _walk(root, set(), ignored):
        if is_media(path):
            entries.append(_entry(root, path.relative_to(root)))
        else:
            told = f"not a film or sound by its ending {path.suffix!r}; name it in a manifest to have it tried"
            ignored.append(Skip(readable(path), "not-media", told))
    return Listing(entries, ignored)


def _walk(folder: Path, seen: set[tuple[int, int]], ignored: list[Skip]) -> Iterator[Path]:
    """Visible files below a folder, sorted; links are followed, each folder is entered once (links may loop)."""
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
        yield folder  # an empty folder that is named like a film: decoding will list it
    for child in visible:
        if os.path.isdir(child):
            yield from _walk(child, seen, ignored)
        else:
            yield child


# --------------------------------------------------------------------------------------- split/{video,audio}/ pairs


def _pair_folders(root: Path) -> list[tuple[str | None, Path]]:
    """Folders that hold `video/` and `audio/`, with the split each stands for."""
    if (root / "video").is_dir() and (root / "audio").is_dir():
        return [(None, root)]
    folders = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    return [(child.name, child) for child in folders if (child / "video").is_dir() and (child / "audio").is_dir()]


def _read_pairs(root: Path, pairs: list[tuple[str | None, Path]]) -> Listing:
    entries: list[Entry] = []
    ignored: list[Skip] = []
    for split, folder in pairs:
        films, sounds = (_by_stem(folder / sense, ignored) for sense in ("video", "audio"))
        for stem, film in films.items():
            # Without a partner the expected name stays, so that decoding lists the pair as missing.
            sound = sounds.get(stem, folder / "audio" / stem).relative_to(root)
            entries.append(_entry(root, film.relative_to(root), audio=sound, split=split, source=readable(stem)))
        for stem in sorted(set(sounds) - set(films)):
            told = f"no film named {readable(stem)}.* in {readable(folder / 'video')}"
            ignored.append(Skip(readable(sounds[stem]), "missing", told))
    return Listing(entries, ignored)


def _by_stem(folder: Path, ignored: list[Skip]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in filter(is_media, _walk(folder, set(), ignored)):
        first = files.setdefault(str(path.relative_to(folder).with_suffix("")), path)
        if first != path:
            ignored.append(Skip(readable(path), "duplicate", f"the same stem as {readable(first)}"))
    return files


# ------------------------------------------------------------------------------------------------- lists, manifests


def _read_list(path: Path) -> list[Entry]:
    """Kinetics: `path label` a line; the label stands behind the last space, so paths may hold spaces."""
    entries = []
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        film, _, label = line.strip().rpartition(" ")
        if not film.strip():
            raise DataError(f"{path}, line {number}: got {line.strip()!r}, expected a path, a space and a label")
        entries.append(_entry(path.parent, Path(film.strip()), label=label, split=path.stem))
    return entries


def _read_table(path: Path) -> Listing:
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)
    entries = [_table_entry(path, number, row) for number, row in rows]
    if not entries:
        raise DataError(f"{path}: no rows in it; expected one row a film, with the column 'path'")
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
    film = _text(row.get("path"))
    if film is None:
        raise DataError(f"{where}: no 'path'; every row needs one")
    audio = _text(row.get("audio_path"))
    start, end = (_seconds(row.get(name), name, where) for name in ("start_seconds", "end_seconds"))
    if end is not None and end <= (start or 0.0):
        raise DataError(f"{where}: end_seconds {end} must lie after start_seconds {start or 0.0}")
    return _entry(
        path.parent,
        Path(film),
        audio=None if audio is None else Path(audio),
        start_seconds=start,
        end_seconds=end,
        label=_text(row.get("label")),
        split=_text(row.get("split")),
        source=_text(row.get("source")),
        extra={name: value for name, value in row.items() if name not in COLUMNS},
    )


def _text(value: object) -> str | None:
    """A cell's text; an empty cell, like JSON's null, is no value."""
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


# ----------------------------------------------------------------------------------------------------------- details


def _entry(root: Path, path: Path, *, audio: Path | None = None, source: str | None = None, **values: Any) -> Entry:
    """An entry; relative paths count from `root`."""
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


def distinct(entries: list[Entry]) -> tuple[list[Entry], list[Skip]]:
    """The entries without those that name the same stretch of the same file again, and a word on these."""
    seen: dict[str, Entry] = {}
    repeated = []
    for entry in entries:
        if seen.setdefault(entry.key, entry) is not entry:
            repeated.append(
                Skip(readable(entry.path), "duplicate", "the same stretch of the same file is listed before")
            )
    return list(seen.values()), repeated
