"""The fields of a settings class: what each one means, and how a command's function takes them as keyword arguments."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import re
import typing
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

from cmmixer.config.base import from_dict
from cmmixer.errors import SettingsError

Settings = TypeVar("Settings")
SettingsIn = TypeVar("SettingsIn", contravariant=True)
Result = TypeVar("Result")
ResultOut = TypeVar("ResultOut", covariant=True)
Options = ParamSpec("Options")

KEYWORDS = "Keyword Args:"


class CommandFunction(Protocol[SettingsIn, Options, ResultOut]):
    """A function that takes a settings object, or the object's fields as keyword arguments."""

    @overload
    def __call__(self, settings: SettingsIn, /, *args: Options.args, **kwargs: Options.kwargs) -> ResultOut: ...

    @overload
    def __call__(self, **fields: Any) -> ResultOut: ...


def accepts_settings(
    settings_class: type[Settings],
) -> Callable[[Callable[Concatenate[Settings, Options], Result]], CommandFunction[Settings, Options, Result]]:
    """Lets a function whose first parameter is a settings object take the object's fields as keyword arguments too.

        @accepts_settings(PretrainSettings)
        def pretrain(settings: PretrainSettings, progress: Progress | None = None) -> TrainingResult: ...

        pretrain(PretrainSettings(data="videos", epochs=20))
        pretrain(data="videos", epochs=20)

    The signature and the docstring that `help` shows list the fields. Paths are taken for text.

    The decorated function raises:
        SettingsError: fields that are unknown (with the nearest good name), missing or of another type; fields beside a
            settings object; or something else than a settings object.
    """

    def decorate(
        function: Callable[Concatenate[Settings, Options], Result],
    ) -> CommandFunction[Settings, Options, Result]:
        name = function.__name__
        signature = inspect.signature(function)
        _, *others = signature.parameters.values()
        own_names = {parameter.name for parameter in others}

        @functools.wraps(function)
        def command(settings: Any = None, /, *args: Any, **keywords: Any) -> Any:
            options = {key: value for key, value in keywords.items() if key in own_names}
            fields = {key: value for key, value in keywords.items() if key not in own_names}
            if settings is None:
                settings = from_keywords(name, settings_class, fields)
            elif not isinstance(settings, settings_class):
                raise SettingsError(
                    f"{name}: got {settings!r:.80}, expected {settings_class.__name__} or its fields as keyword arguments"
                )
            elif fields:
                raise SettingsError(f"{name}: got settings and {', '.join(fields)}; put them into the settings")
            return function(settings, *args, **options)

        command.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\n{_keywords_section(settings_class)}"
        command.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=_with_fields(signature, settings_class)
        )
        return cast(CommandFunction[Settings, Options, Result], command)

    return decorate


def from_keywords(name: str, settings_class: type[Settings], fields: dict[str, Any]) -> Settings:
    """Builds a settings object from keyword arguments; paths become text.

    Raises:
        SettingsError: unknown fields (with the nearest good name), missing ones, or values of another type or out of range.
    """
    values = {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in fields.items()}
    return from_dict(settings_class, values, name)


def field_helps(settings_class: type[Any]) -> dict[str, str]:
    """What the docstrings of a settings class and its groups say about each field; the nearest class wins."""
    helps: dict[str, str] = {}
    for owner in reversed(settings_class.__mro__):
        section = inspect.cleandoc(owner.__doc__ or "").partition("Attributes:\n")[2]
        # A field begins four spaces in; its further lines are indented more.
        for name, text in re.findall(r"^ {4}(\w+): (.+(?:\n {5,}.+)*)", section, re.MULTILINE):
            helps[name] = " ".join(text.split())
    return helps


def _required_first(settings_class: type[Any]) -> list[dataclasses.Field[Any]]:
    return sorted(dataclasses.fields(settings_class), key=lambda field: field.default is not dataclasses.MISSING)


def _keywords_section(settings_class: type[Any]) -> str:
    """The fields as a section of a docstring."""
    helps = field_helps(settings_class)
    lines = [f"    {field.name}: {helps.get(field.name, '')}" for field in _required_first(settings_class)]
    return "\n".join([KEYWORDS, *lines])


def _with_fields(signature: inspect.Signature, settings_class: type[Any]) -> list[inspect.Parameter]:
    """The function's own parameters, the settings now optional; then the fields, keyword-only."""
    settings, *others = signature.parameters.values()
    hints = typing.get_type_hints(settings_class)
    fields = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in _required_first(settings_class)
    ]
    optional = settings.replace(
        kind=inspect.Parameter.POSITIONAL_ONLY, default=None, annotation=f"{settings_class.__name__} | None"
    )
    return [optional, *others, *fields]
