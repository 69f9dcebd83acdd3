"""The project speaks the field's language: words of our own that crept in once are refused.

`docs/vocabulary.md` explains what is said instead; every word listed here must stand in its table. History keeps its words: the
lab notebook and the decisions are searched in their headings and tables only.
"""

from __future__ import annotations

import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = "docs/vocabulary.md"
HISTORY = ("docs/lab-notebook.md", "docs/decisions.md")
RESULTS = "benchmarks/results/"
NOT_OURS = ("LICENSE", "constraints.txt", "CODE_OF_CONDUCT.md")

# The word as `docs/vocabulary.md` lists it -> what is searched for, in any case.
WORDS = {
    "sense": r"\bsenses?\b",
    "film": r"\bfilms?\b",
    "guessing": r"\bguessing\b",
    "step size": r"\bstep[ _]sizes?\b",
    "longest gradient": r"\blongest gradients?\b",
    "standardise": r"standardi[sz]",
    "spread": r"\bspreads\b|_spread\b|\bspread_",
    "the contrast": r"\bthe contrast\b|\bcontrast only\b",
    "frames apart": r"\bframes[ _]apart\b",
    "dealt out": r"\bdealt out\b|\bdeals? out\b",
    "pair mixing": r"\bpair[ _-]?mix",
    "canonical heads": r"\bcanonical (?:heads|maps)\b",
    "whole frames swapped": r"\bwhole frames swapped\b|\bswapped frames\b",
    "mel picture": r"\bmel[ _]pictures?\b",
    "share map": r"\bshare maps?\b|\bdraw_share\b",
    "told": r"\btold\b",
    "complaint": r"\bcomplain\w*",
    "fault": r"\bfaults?\b",
    "goes on": r"\b(?:goes|going|gone|go)[ _]on\b",
    "anew": r"\banew\b",
    "given back": r"\bgiv(?:e|es|en|ing) back\b",
    "made-up": r"\bmade-up\b",
    "processor": r"\bprocessors?\b",
    "floor": r"(?<![.\w])floors?\b(?!\()",
    "card": r"\bcards?\b",
    "looking at all": r"\blook(?:ing|s|ed)? at all\b",
    "storey": r"\bstoreys?\b",
    "what the networks eat": r"\bnetworks? eats?\b",
    "who it puts next to whom": r"\bnext to whom\b",
    "a first look at the pairs": r"\bfirst look at the pairs\b",
    "the Python face": r"\b(?:the|a) Python face\b",
}

# Ordinary words that may not be names in the code: searched for in identifiers, whole or between underscores.
IDENTIFIERS = {
    "picture": r"(?:^|_)pictures?(?:_|$)|Picture",
    "Chance": r"^Chance$|^chance_of_step$",
    "attempt": r"^Attempts?$",
    "Piece": r"^(?:\w*[a-z])?Piece$|(?:^|_)pieces?(?:_|$)",
    "Cut": r"^Cut$",
    "Slots": r"^Slots$|^Filled$",
    "Asking": r"^Asking$|(?:^|_)asking(?:_|$)",
    "plan": r"Plan$|(?:^|_)plans?(?:_|$)",
    "taking": r"(?:^|_)taking(?:_|$)",
    "goes": r"(?:^|_)goes(?:_|$)",
}

# What is somebody else's word, or means something else where it stands: (what is searched for, path, what may stand there).
EXCEPTIONS = (
    (
        r".*",
        r"shared/data/films2?|/ \"films\"|films/manifest\.csv|films2?/",
    ),  # a folder of test media, not ours to name
    (r"encoders/pe_av|encoders/test_pe_av|docs/.*", r"(?:AutoP|p)rocessors?"),  # transformers' own word
    (r"synthetic/|tests/synthetic/", r"floors?"),  # synthetic bodies fall onto one
    (r".*", r"model cards?"),  # the Hugging Face Hub's own word
    (r".*", r"[Ss]egmentation fault|faulthandler"),
    (r"checkpoint|train/test_resume", r"card\.json"),  # the metadata file of checkpoints of format 1, which is refused
)


@cache
def _files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    own = {VOCABULARY, str(Path(__file__).relative_to(ROOT))}
    return sorted(
        name
        for name in listed.stdout.splitlines()
        if name not in own
        and not name.startswith(NOT_OURS)
        and (ROOT / name).is_file()
        and not name.endswith((".png", ".svg", ".lock"))
    )


@cache
def _lines() -> list[tuple[str, int, str]]:
    """The lines that are ours to word, each with its file and number: of history the headings and tables, of stored results the keys.

    Read once for all words.
    """
    found = []
    for name in _files():
        allowed = [pattern for path, pattern in EXCEPTIONS if re.search(path, name)]
        for number, line in enumerate((ROOT / name).read_text().splitlines(), 1):
            if name.startswith(RESULTS):
                line = " ".join(re.findall(r'"([^"]*)":', line))
            if name not in HISTORY or line.startswith(("#", "|")):
                for pattern in allowed:
                    line = re.sub(pattern, "", line)
                found.append((name, number, line))
    return found


def _identifiers(name: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO((ROOT / name).read_text()).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], token.string


@pytest.mark.parametrize("word", WORDS)
def test_nothing_says_it_in_our_own_words(word: str) -> None:
    searched = re.compile(WORDS[word], re.IGNORECASE)
    found = [f"{name}:{number}: {line.strip()[:100]}" for name, number, line in _lines() if searched.search(line)]
    assert not found, f"{len(found)} places say {word!r}; {VOCABULARY} says what to write instead:\n" + "\n".join(
        found[:40]
    )


def test_no_name_in_the_code_is_a_word_of_our_own() -> None:
    searched = {word: re.compile(pattern) for word, pattern in IDENTIFIERS.items()}
    found = [
        f"{name}:{number}: {identifier} ({word})"
        for name in _files()
        if name.endswith(".py")
        for number, identifier in _identifiers(name)
        for word, pattern in searched.items()
        if pattern.search(identifier) and not identifier.startswith("test_")
    ]
    assert not found, f"{len(found)} names; {VOCABULARY} says what to write instead:\n" + "\n".join(found[:40])


def test_every_word_is_explained_in_one_place() -> None:
    table = (ROOT / VOCABULARY).read_text()
    assert [word for word in [*WORDS, *IDENTIFIERS] if f"| {word} |" not in table] == []


def test_a_word_that_is_refused_is_found() -> None:
    """The search itself works: each word is found in a sentence that holds it."""
    for word, pattern in WORDS.items():
        sentence = {"spread": "means and spreads"}.get(word, f"It has {word} in it.")
        assert re.search(pattern, sentence, re.IGNORECASE), word
    for word, pattern in IDENTIFIERS.items():
        assert re.search(pattern, word) or re.search(pattern, word.capitalize()), word
