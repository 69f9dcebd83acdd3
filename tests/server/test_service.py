"""What a service opens and refuses to open: token files, roots, the model of the index."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cmmixer.config import ServeSettings
from cmmixer.errors import CheckpointError, SearchIndexError, SettingsError
from cmmixer.server import service as service_module
from cmmixer.server.jobs import Job
from cmmixer.server.library import LiveLibrary
from cmmixer.server.service import Service
from tests.support.coloured_videos import ColourEncoder
from tests.support.service import StartService, service_of

TOKEN = "a-token-of-more-than-16-characters"


def _settings(library: Path, **values: Any) -> ServeSettings:
    return ServeSettings(index=str(library), workers=1, searches=1, **values)


def test_token_comes_from_settings_or_a_file(library: Path, tmp_path: Path) -> None:
    file = tmp_path / "token.txt"
    file.write_text(f"  {TOKEN}\n")
    assert service_module._token(_settings(library)) is None
    assert service_module._token(_settings(library, token=TOKEN)) == TOKEN
    assert service_module._token(_settings(library, token_file=str(file))) == TOKEN


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read ([Errno 2] No such file or directory"),
        (b"\xff\xfe\xfa", "cannot be read ('utf-8' codec can't decode byte 0xff"),
        (b"short", "got 5 characters, expected 16 or more"),
    ],
)
def test_unusable_token_files_are_reported(library: Path, tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "token.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError) as error:
        service_module._token(_settings(library, token_file=str(file)))
    assert str(error.value).startswith(f"--token_file {file}: {message}")


def test_roots_are_the_indexed_folders_or_those_of_the_settings(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = LiveLibrary(library).snapshot()
    indexed = str(library.parent / "data")
    assert service_module._roots(_settings(library), snapshot) == [indexed]
    both = os.pathsep.join([str(tmp_path), "", indexed])
    assert service_module._roots(_settings(library, roots=both), snapshot) == [str(tmp_path), indexed]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert service_module._roots(_settings(library, roots="~"), snapshot) == [str(tmp_path)]
    missing = os.pathsep.join([f"{tmp_path}/a", str(tmp_path), f"{tmp_path}/b"])
    with pytest.raises(SettingsError) as error:
        service_module._roots(_settings(library, roots=missing), snapshot)
    assert str(error.value) == f"--roots: got {tmp_path}/a, {tmp_path}/b, expected existing folders"


def test_a_model_that_has_moved_is_reported(library: Path) -> None:
    snapshot = LiveLibrary(library).snapshot()
    with pytest.raises(SearchIndexError) as error:
        service_module._encoder(_settings(library), snapshot)
    model = ColourEncoder().id[:16]
    assert str(error.value).startswith(f"{library}: its model {model} cannot be loaded from where it was (")
    assert str(error.value).endswith("; give its place with --model")
    # With --model the error is that of the given model.
    with pytest.raises(CheckpointError, match=r"^/no/such/run"):
        service_module._encoder(_settings(library, model="/no/such/run"), snapshot)


def test_a_model_of_another_index_is_refused(library: Path) -> None:
    with pytest.raises(SearchIndexError, match="its vectors are of model"):
        Service(_settings(library), ColourEncoder("other colours"))


def test_jobs_index_with_the_settings_of_the_service(start_service: StartService, library: Path) -> None:
    service = service_of(start_service(file_seconds=12.0))
    job = Job("1" * 24, "2" * 24, "more", "/media/more", remove_missing=True)
    settings = service._index_settings(job)
    assert (settings.data, settings.index, settings.sync) == ("/media/more", str(library), True)
    assert (settings.file_seconds, settings.workers, settings.model) == (12.0, 1, ColourEncoder().path)


def test_previews_are_beside_the_index_by_default(library: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(library, tmp_path / "library")
    with Service(_settings(tmp_path / "library"), ColourEncoder()) as service:
        assert service.cache.folder == tmp_path / "library" / "previews"
    with Service(_settings(library, cache=str(tmp_path / "elsewhere")), ColourEncoder()) as service:
        assert service.cache.folder == tmp_path / "elsewhere"
