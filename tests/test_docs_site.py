"""The documentation's pages: built with warnings as errors, loading nothing from elsewhere, and saying what the package does."""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

import cmmixer
from cmmixer.checkpoint import Metadata
from cmmixer.cli.commands import COMMANDS
from cmmixer.cli.parser import parse
from cmmixer.config import FinetuneSettings, SynthesizeSettings
from cmmixer.config.base import FLAG_OF_FIELD
from cmmixer.data.manifest import COLUMNS as MANIFEST_COLUMNS
from cmmixer.data.store import SCHEMA as STORE_SCHEMA
from cmmixer.data.store import StoreMetadata
from cmmixer.editing.edl import COLUMNS as CUT_COLUMNS
from cmmixer.embedding.parquet import parquet_schema
from cmmixer.embedding.vector_table import OWN_FILES as VECTOR_FILES
from cmmixer.embedding.vector_table import VectorsMetadata
from cmmixer.errors import MediaError
from cmmixer.evaluation.metrics import retrieval_metrics
from cmmixer.retrieval.schema import FILES_SCHEMA, IndexMetadata, moments_schema
from cmmixer.synthetic.generate import synthesize
from tests.support.small_runs import NANO, untrained_run

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
# Written by people for readers; the other pages are written by scripts, or are logs of what was run once.
GUIDES = ["index", "quickstart", "for-editors", "for-researchers", "for-engineers", "formats", "how-it-works", "faq"]


class _Page(HTMLParser):
    """What a page names: ids, links, and whatever a browser loads with it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.ids |= {values["id"]} if "id" in values else set()
        if tag == "a":
            self.links.append(values.get("href", ""))
        elif tag == "link" and values.get("rel") not in ("next", "prev", "index", "search", "canonical"):
            self.loads.append(values.get("href", ""))
        else:
            self.loads += [values[name] for name in ("src", "srcset", "data", "poster") if name in values]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", folder / "read", DOCS, folder / "html"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, _Page]:
    return {str(path.relative_to(site)): _Page(path.read_text()) for path in site.rglob("*.html")}


def test_there_is_a_page_for_every_document(pages: dict[str, _Page]) -> None:
    documents = {path.stem for path in DOCS.glob("*.md")}
    assert documents >= {*GUIDES, "cli", "api", "http", "study", "decisions", "lab-notebook"}
    assert {f"{name}.html" for name in documents} <= set(pages)


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[str, _Page]) -> None:
    for name, page in pages.items():
        for address in page.loads:
            if not address.startswith("data:"):
                split = urlsplit(address)
                assert (split.scheme, split.netloc) == ("", ""), f"{name} loads {address}"
                assert (site / name).parent.joinpath(unquote(split.path)).is_file(), f"{name} loads {address}"
    styles = list(site.rglob("*.css"))
    assert len(styles) > 2
    for style in styles:
        text = style.read_text()
        assert re.findall(r"url\(\s*['\"]?(?:https?:)?//", text) == []
        assert "@import" not in text


def test_every_link_inside_leads_somewhere(site: Path, pages: dict[str, _Page]) -> None:
    for name, page in pages.items():
        for link in page.links:
            split = urlsplit(link)
            if split.scheme or split.netloc or not link.strip("#"):
                continue
            target = (site / name).parent.joinpath(unquote(split.path)).resolve() if split.path else site / name
            assert target.is_file(), f"{name} links to {link}"
            if split.fragment and target.suffix == ".html":
                assert unquote(split.fragment) in pages[str(target.relative_to(site))].ids, f"{name} links to {link}"


# --------------------------------------------------------------------------------------------------- what is generated


def _section(html: str, anchor: str) -> str:
    """The text of a page from an anchor to the next section's end, tags taken out."""
    found = re.search(rf'<section id="{re.escape(anchor)}">(.*?)</section>', html, re.DOTALL)
    assert found is not None, anchor
    blocks_apart = re.sub(r"</?(?:dt|dd|p|div|h\d|a)\b[^>]*>", " ", found[1])
    text = unescape(re.sub(r"<[^>]+>", "", blocks_apart)).replace("’", "'")
    return re.sub(r"\s+", " ", text).replace(" .", ".")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_section_with_example_and_flags(site: Path, name: str) -> None:
    command = COMMANDS[name]
    text = _section((site / "cli.html").read_text(), f"cli-{name}")
    assert command.summary in text
    for line in command.example.splitlines():
        assert " ".join(line.split()) in text
    for field in dataclasses.fields(command.settings):
        flag = FLAG_OF_FIELD.get(field.name, field.name)
        assert (flag.upper() if field.name in command.positionals else f"--{flag}") in text


def test_flags_have_their_help_and_default_by_value(site: Path) -> None:
    html = (site / "cli.html").read_text()
    pretrain, finetune = _section(html, "cli-pretrain"), _section(html, "cli-finetune")
    assert "--mask_ratio X ¶ fraction of the tokens that is masked. Default: 0.75." in pretrain
    assert "--mixup_mode TEXT ¶ what one draw covers: pixel, patch, image" in pretrain
    assert (
        f"--temperature X ¶ initial temperature; nt_xent keeps it. Default: {FinetuneSettings.temperature}." in finetune
    )
    assert (
        "--shared_tower, --no_shared_tower ¶ use one encoder for both modalities instead of two. Default: no."
        in finetune
    )
    assert (
        "--data TEXT ¶ a folder of videos, split/{video,audio}/ pairs, a Kinetics list, a CSV or JSONL manifest"
        in finetune
    )
    assert (
        "those of its own clip included, instead of whole clips; default: 1 - sequence_weight with frame-level encoding and 500 clips or more, else 0."
        in finetune
    )
    assert "which --rerank sequence compares" in finetune


def test_every_public_name_stands_on_the_page_of_the_api(pages: dict[str, _Page]) -> None:
    page = pages["api.html"]
    settings = {f"settings-{name}" for name in COMMANDS}
    functions = {f"cmmixer.{name}" for name in cmmixer.__all__ if name.islower() and name[0] != "_"}
    assert len(functions) >= 16
    assert (settings | functions) - page.ids == set()


def test_every_endpoint_stands_on_the_page_of_the_service(site: Path, pages: dict[str, _Page]) -> None:
    assert {"http-get-api-v1-search", "http-post-api-v1-queries", "http-hit", "http-get-health"} <= pages[
        "http.html"
    ].ids
    search = _section((site / "http.html").read_text(), "http-get-api-v1-search")
    assert "limit integer from 1 to 200. Hits per page. Default: 24." in search
    assert "Answers 200 with SearchPage." in search


# -------------------------------------------------------------------------------------------------- what people wrote


def _blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / f"{name}.md").read_text(), re.MULTILINE | re.DOTALL)


def _command_lines() -> Iterator[tuple[str, str]]:
    for name in GUIDES:
        for block in _blocks(name, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                yield name, line


def test_every_command_line_of_the_guides_is_one_that_works() -> None:
    lines = list(_command_lines())
    ours = [words for _, line in lines if "cmmixer" in (words := shlex.split(line.partition("#")[0]))]
    assert len(ours) >= 25
    for words in ours:
        name, *arguments = words[words.index("cmmixer") + 1 :]
        parse(COMMANDS[name], arguments)
    rest = {shlex.split(line)[0] for _, line in lines if "cmmixer" not in shlex.split(line)}
    assert rest <= {"make", "pip", "python", "python3", "curl", "source"}


def test_scripts_and_recipes_that_the_guides_name_are_there() -> None:
    text = "\n".join((DOCS / f"{name}.md").read_text() for name in GUIDES)
    scripts = set(re.findall(r"python -m (benchmarks\.\w+)", text))
    assert len(scripts) >= 6
    for script in scripts:
        path = ROOT / script.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
    assert set(re.findall(r"`(recipes/[\w-]+\.yaml)`", text)) == {
        f"recipes/{path.name}" for path in (ROOT / "recipes").glob("*.yaml")
    }


@pytest.mark.parametrize("name", ["for-engineers", "formats"])
def test_python_of_the_guides_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    untrained_run(tmp_path / "runs/quickstart/finetune", NANO)
    gallery = tmp_path / "runs/quickstart/videos/gallery"
    synthesize(SynthesizeSettings(clips=5, out=str(gallery), seed=3, workers=1))
    if name == "for-engineers":
        parquet = cmmixer.EmbedSettings(
            model="runs/quickstart/finetune", data=str(gallery), out="runs/videos.parquet", workers=1
        )
        cmmixer.embed(parquet)
    else:
        from cmmixer.evaluation.gallery import freeze, save_gallery

        save_gallery(freeze(["b.mp4#0.000-4.000", "ä.mp4#0.000-4.000"]), "runs/quickstart/gallery.json")
    blocks = _blocks(name, "python")
    ran = [block for block in blocks if "server.client" not in block]  # tests/server tests the client
    assert len(ran) == {"for-engineers": 7, "formats": 1}[name]
    found: dict[str, object] = {}
    for block in ran:
        exec(compile(block, f"{name}.md", "exec"), found)
    if name == "for-engineers":
        assert found["similarity"].shape == (2, 2)  # type: ignore[attr-defined]
        assert len(found["result"].hits) == 3  # type: ignore[attr-defined]
        assert found["table"].num_rows == 5  # type: ignore[attr-defined]
        assert found["vectors"].schema.names == ["path", "audio"]  # type: ignore[attr-defined]
        assert found["rows"] == 5
        _check_levels(found)


def _check_levels(found: dict[str, object]) -> None:
    """The encoder that the page writes down is one."""
    import torch

    from cmmixer.encoders.base import Encoder

    encoder = found["load"]("", torch.device("cpu"))  # type: ignore[operator]
    assert isinstance(encoder, Encoder)
    rising = torch.linspace(0, 200, 8).to(torch.uint8)[None, :, None, None, None].expand(1, 8, 3, 32, 32)
    louder = (torch.linspace(0, 9000, 8)[None, :, None] * torch.ones(1, 8, 4000)).to(torch.int16)
    video, audio = encoder.embed_video(rising), encoder.embed_audio(louder)
    assert video.frames_BTE.shape == (1, 8, 8)
    assert float((video.clip_BE * audio.clip_BE).sum()) > 0.999


def _first_cells(section: str) -> list[list[str]]:
    """The first column of each table of a section of formats.md."""
    text = (DOCS / "formats.md").read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE) for table in tables]


def test_formats_names_every_column_and_key_and_no_other() -> None:
    assert _first_cells("Data")[1] == list(MANIFEST_COLUMNS)
    assert _first_cells("Clip store")[1] == STORE_SCHEMA.names
    assert _first_cells("Checkpoints")[2] == [field.name for field in dataclasses.fields(Metadata)]
    plain, with_frames = parquet_schema().names, parquet_schema(frames=True).names
    scales = parquet_schema("int8", frames=True).names
    assert _first_cells("Vectors as Parquet") == [
        plain,
        [name for name in with_frames if name not in plain],
        [name for name in scales if name not in with_frames],
    ]
    assert _first_cells("Vectors as a folder")[0] == [*VECTOR_FILES[:3], *VECTOR_FILES[4:], VECTOR_FILES[3]]
    assert _first_cells("Index")[1:] == [FILES_SCHEMA.names, moments_schema(8, 4).names]
    assert _first_cells("Cut lists")[0] == list(CUT_COLUMNS)
    vectors_NE = np.eye(3)
    keys = list(retrieval_metrics(vectors_NE, vectors_NE, gallery="", resamplings=2))
    assert _first_cells("Metrics")[0] == [*keys, "model_id", "rerank", "overlap", "skipped"]
    text = (DOCS / "formats.md").read_text()
    for file, metadata in (("store.json", StoreMetadata), ("index.json", IndexMetadata)):
        keys_listed = re.search(rf"^`{file}`: (.*?)\. Columns of", text, re.MULTILINE | re.DOTALL)
        assert keys_listed is not None
        assert {field.name for field in dataclasses.fields(metadata)} <= set(re.findall(r"`(\w+)`", keys_listed[1]))
        assert f"`format` ({metadata.FILE.format})" in keys_listed[1]
    keys_listed = re.search(r"^`vectors\.json`: (.*?)\. `read_vectors`", text, re.MULTILINE | re.DOTALL)
    assert keys_listed is not None
    assert {field.name for field in dataclasses.fields(VectorsMetadata)} <= set(re.findall(r"`(\w+)`", keys_listed[1]))
    assert f"`format` ({VectorsMetadata.FILE.format})" in keys_listed[1]
    assert f"`metadata.json` has `format` ({Metadata.FILE.format}) and:" in text
    reasons = re.search(r"Reasons in all reports of skipped files: (.*)\.", text)
    assert reasons is not None
    assert re.findall(r"`([\w-]+)`", reasons[1]) == list(MediaError.REASONS)
