"""Parts of pages that are written from the package while the site is built, so that they cannot say anything else than it does.

A page marks the place with a comment line, `% written: NAME`; `PARTS` says which function writes it. Everything is given as
MyST Markdown: commands from the table of commands and its parsers, public names from `cmmixer.__all__`, the HTTP interface
from the service's OpenAPI description.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, cast

from docutils import nodes
from sphinx.application import Sphinx

import cmmixer
from cmmixer.cli.commands import COMMANDS, Command
from cmmixer.cli.parser import build
from cmmixer.config import ServeSettings
from cmmixer.config.fields import KEYWORDS
from cmmixer.server.app import create_app
from cmmixer.server.service import Service

# Flags of every command, which the page tells once.
_COMMON = {"--help", "--config", "--print_config", "--json"}
_PLACE = re.compile(r"^% written: (\w+)$", re.MULTILINE)


# -------------------------------------------------------------------------------------------------------- command line


def commands() -> str:
    """A section for each command: what it does, its example, each flag with its default."""
    return "\n\n".join(_command(command) for command in COMMANDS.values())


def _command(command: Command) -> str:
    parser = build(command)
    parts = [f"(cli-{command.name})=\n## cmmixer {command.name}", _prose(command.summary)]
    if command.extra is not None:
        parts.append(f"Needs the extra `{command.extra}`: `pip install 'cmmixer[{command.extra}]'`.")
    examples = "\n".join(line.strip() for line in command.example.splitlines())
    parts += [f"```sh\n{examples}\n```", f"```{{program}} cmmixer {command.name}\n```"]
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if not _COMMON & set(action.option_strings)]
        if actions:
            parts.append(f":::{{rubric}} {(group.title or '').capitalize()}\n:::")
            parts += [_flag(action) for action in actions]
    return "\n\n".join(parts)


def _flag(action: argparse.Action) -> str:
    value = f" {action.metavar}" if action.metavar and action.option_strings and action.nargs != 0 else ""
    names = [f"{name}{value}" for name in action.option_strings] or [str(action.metavar)]
    # No capital: many begin with a value that is typed as it stands.
    message = [f"{_prose((action.help or '').replace('%%', '%'))}."]
    if action.required:
        message.append("Required.")
    elif action.option_strings and action.default is not None:
        message.append(f"Default: `{_shown(action.default)}`.")
    return f":::{{option}} {', '.join(names)}\n{' '.join(message)}\n:::"


def _shown(default: Any) -> str:
    return {True: "yes", False: "no"}[default] if isinstance(default, bool) else str(default)


# ---------------------------------------------------------------------------------------------------------- Python API


# Documented beside the class that they return.
_ELSEWHERE = {"load", "from_pretrained"}


def functions() -> str:
    """The public functions: those of the commands first, in their order, then the others."""
    commands = [name for name in COMMANDS if name in cmmixer.__all__]
    others = [name for name in cmmixer.__all__ if name.islower() and name[0] != "_" and name not in COMMANDS]
    return _autodoc(
        [
            # A command's fields are listed once, on the page of the command line.
            *(f".. autofunction:: cmmixer.{name}(settings=None, /, progress=None, **fields)" for name in commands),
            *(f".. autofunction:: cmmixer.{name}" for name in others if name not in _ELSEWHERE),
        ]
    )


def settings() -> str:
    """The settings classes, each with the command whose flags its fields are."""
    rows = []
    for command in COMMANDS.values():
        name = command.settings.__name__
        if name in cmmixer.__all__:
            rows.append(
                f"(settings-{command.name})=\n`cmmixer.{name}`\n: {{ref}}`cmmixer {command.name} <cli-{command.name}>`"
            )
    return "\n\n".join(rows)


def _autodoc(lines: Iterable[str]) -> str:
    return "```{eval-rst}\n" + "\n\n".join(lines) + "\n```"


# ---------------------------------------------------------------------------------------------------------------- HTTP


def http() -> str:
    """Every endpoint with its parameters, then every kind of value that travels."""
    described = openapi()
    by_tag: dict[str, list[str]] = {}
    for path, methods in described["paths"].items():
        for method, endpoint in methods.items():
            by_tag.setdefault(endpoint["tags"][0], []).append(_endpoint(method, path, endpoint))
    parts = [f"## {tag.capitalize()}\n\n" + "\n\n".join(endpoints) for tag, endpoints in by_tag.items()]
    kinds = [_kind(name, kind) for name, kind in sorted(described["components"]["schemas"].items())]
    return "\n\n".join([*parts, "## Values\n\nWhat the bodies of requests and answers hold, as JSON.", *kinds])


def openapi() -> dict[str, Any]:
    """The description that the service gives at /api/v1/openapi.json; no index is needed for it."""
    service = SimpleNamespace(settings=ServeSettings(index="library"), token=None, queries=None, metrics=None)
    return create_app(cast(Service, service)).openapi()


def _endpoint(method: str, path: str, endpoint: dict[str, Any]) -> str:
    anchor = re.sub(r"\W+", "-", f"{method}{path}").strip("-")
    parts = [f"(http-{anchor})=\n### {method.upper()} {_prose(path)}", _sentence(endpoint.get("summary", ""))]
    entries = [_field(entry, entry["schema"], entry.get("required", False)) for entry in endpoint.get("parameters", [])]
    body = endpoint.get("requestBody")
    if body is not None:
        kind = next(iter(body["content"].values()))["schema"]
        entries.append(f"body\n: {_type(kind)}. {_sentence(body.get('description', ''))}")
    parts += entries
    for status, answer in endpoint["responses"].items():
        kind = next((content.get("schema") for content in answer.get("content", {}).values()), None)
        if status.startswith("2"):
            parts.append(f"Answers `{status}`" + (f" with {_type(kind)}." if kind else "."))
    return "\n\n".join(parts)


def _kind(name: str, kind: dict[str, Any]) -> str:
    fields = [_field({"name": field, **values}, values, False) for field, values in kind.get("properties", {}).items()]
    return "\n\n".join([f"(http-{name})=\n### {name}", _prose(kind.get("description", "")), *fields])


def _field(entry: dict[str, Any], schema: dict[str, Any], required: bool) -> str:
    about = entry.get("description") or schema.get("description") or ""
    message = [f"{_type(schema)}{', required' if required else ''}."]
    if about:
        message.append(_sentence(about))
    if schema.get("default") not in (None, []):
        message.append(f"Default: `{_shown(schema['default'])}`.")
    return f"`{entry['name']}`\n: {' '.join(message)}"


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#http-{name})"
    if "anyOf" in schema:
        return " or ".join(_type(part) for part in schema["anyOf"] if part.get("type") != "null")
    if "enum" in schema:
        return "one of " + ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if "minimum" in schema and schema.get("maximum", 1e9) < 1e6:
        return f"{schema['type']} from {schema['minimum']:g} to {schema['maximum']:g}"
    return str(schema.get("type", "any JSON"))


# ------------------------------------------------------------------------------------------------------------- together


PARTS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "functions": functions,
    "settings": settings,
    "http": http,
}


def _sentence(text: str) -> str:
    """The same with a capital and a full stop."""
    return _prose(text[:1].upper() + text[1:].rstrip(".") + "." if text else "")


def _prose(text: str) -> str:
    """Text of the package as Markdown: code in backticks and flags become code, nothing else is taken for markup."""
    chunks = re.split(r"(`[^`]*`|(?<![\w`-])--[a-z][a-z_]*)", text)
    return "".join(
        f"`{chunk.strip('`')}`" if number % 2 else re.sub(r"([\\*_\[\]<>{}$|#~])", r"\\\1", chunk)
        for number, chunk in enumerate(chunks)
    )


def _write(app: Sphinx, page: str, source: list[str]) -> None:
    source[0] = _PLACE.sub(lambda place: PARTS[place[1]](), source[0])


def _draw_dashes(app: Sphinx, tree: nodes.document) -> None:
    """Between a parameter and what it is Sphinx sets two hyphens, which stay as they are elsewhere (conf.py)."""
    for text in list(tree.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" – "))


def _cut_fields(app: Sphinx, kind: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Removes the fields of a command's settings from its docstring."""
    if KEYWORDS in lines:
        del lines[lines.index(KEYWORDS) :]


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the writing."""
    app.connect("source-read", _write)
    app.connect("doctree-read", _draw_dashes)
    app.connect("autodoc-process-docstring", _cut_fields, priority=1)  # before Napoleon
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
