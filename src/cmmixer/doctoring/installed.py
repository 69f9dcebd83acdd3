"""Packages that the project asks for, by its own metadata, and programs beside it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement

from cmmixer.doctoring.findings import Finding

_FOR = {
    "report": "the quickstart's report, TensorBoard",
    "probe": "cmmixer probe",
    "inspect": "cmmixer inspect",
    "serve": "cmmixer serve",
    "export": "cmmixer export",
    "bench": "cmmixer bench",
    "ray": "--engine ray",
    "s3": "stores and vectors on s3://",
    "hub": "runs on the Hugging Face Hub",
    "hf": "Meta's PE-AV",
    "mteb": "MTEB's tasks",
}
_PROGRAMS = {
    (
        "ffmpeg",
    ): "not needed: PyAV brings FFmpeg's libraries; handy for converting what cannot be used, and beside `bench data`",
    ("chromium", "chromium-browser", "google-chrome"): "only for the tests of the page",
    ("c++", "g++", "clang++"): "only for --compile",
}


def examine_packages() -> Iterator[Finding]:
    """Looks at the packages of the project itself and of each of its extras, then at programs."""
    wanted: dict[str, list[Requirement]] = {"": [], **{extra: [] for extra in _FOR}}
    for line in metadata.requires("cmmixer") or ():
        requirement = Requirement(line)
        for extra, requirements in wanted.items():
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                requirements.append(requirement)
    own = {requirement.name for requirement in wanted[""]}
    yield _packages("Packages", wanted[""], "", "bad")
    for extra, use in _FOR.items():
        more = [requirement for requirement in wanted[extra] if requirement.name not in own]
        yield _packages(f"Extra {extra}", more, use, "note", extra)
    for names, use in _PROGRAMS.items():
        found = next(filter(None, map(shutil.which, names)), None)
        yield Finding(names[0], "note" if found is None else "ok", f"{found or 'not there'} ({use})")


def _packages(name: str, wanted: list[Requirement], use: str, state: str, extra: str = "") -> Finding:
    faults = [fault for requirement in wanted if (fault := _fault(requirement))]
    what = f"{use}: " if use else ""
    if not faults:
        return Finding(name, "ok", what + ", ".join(sorted(requirement.name for requirement in wanted)))
    install = f"pip install 'cmmixer[{extra}]'" if extra else "pip install cmmixer"
    return Finding(name, "bad" if state == "bad" else "note", what + "; ".join(faults), install)


def _fault(requirement: Requirement) -> str:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} is {version}, expected {requirement.specifier}"
    return ""
