"""Settings as keyword arguments of a command's function: what is accepted, what is refused, and what `help` shows."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest

from cmmixer.cli.commands import COMMANDS
from cmmixer.config.base import at_least
from cmmixer.config.fields import KEYWORDS, accepts_settings, field_helps, from_keywords
from cmmixer.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class _Oven:
    """Which oven.

    Attributes:
        degrees: temperature in
            degrees Celsius; 20 to 250
        fan: whether air circulates
    """

    degrees: float = 180.0
    fan: bool = False


@dataclass(frozen=True, kw_only=True)
class BakeSettings(_Oven):
    """Bake a cake.

    Attributes:
        flour: folder of the flour
        layers: how many
        sides: [low, high] of the tin
        fan: whether air circulates; 100 % of the time
    """

    flour: str
    layers: int = 1
    sides: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        at_least("layers", self.layers, 1)


@accepts_settings(BakeSettings)
def bake(settings: BakeSettings, minutes: int = 30, *, taste: str = "sweet") -> tuple[BakeSettings, int, str]:
    """Bakes.

    Args:
        settings: of the cake.
        minutes: in the oven.
    """
    return settings, minutes, taste


def test_settings_object_and_keywords_are_equivalent() -> None:
    settings = BakeSettings(flour="rye", layers=3, fan=True)
    assert bake(settings) == bake(flour="rye", layers=3, fan=True) == (settings, 30, "sweet")


def test_own_parameters_are_passed_on_beside_either() -> None:
    settings = BakeSettings(flour="rye")
    assert bake(settings, 45, taste="salty") == (settings, 45, "salty")
    assert bake(settings, minutes=45, taste="salty") == (settings, 45, "salty")
    assert bake(flour="rye", minutes=45, taste="salty") == (settings, 45, "salty")


def test_paths_become_text_and_lists_become_tuples() -> None:
    settings, *_ = bake(flour=Path("mill") / "rye", sides=[0.25, 0.5])
    assert (settings.flour, settings.sides) == ("mill/rye", (0.25, 0.5))


def test_whole_numbers_stand_for_floats() -> None:
    assert bake(flour="rye", degrees=200)[0].degrees == 200


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"flour": "rye", "layer": 2}, "bake: unknown keys: layer (did you mean layers?)"),
        ({"flour": "rye", "xyz": 2}, "bake: unknown keys: xyz"),
        ({}, "bake: missing keys: flour"),
        ({"layers": 2, "fun": True}, "bake: unknown keys: fun (did you mean fan?); missing keys: flour"),
        ({"flour": "rye", "layers": "two"}, 'bake: layers: got "two", expected int'),
        ({"flour": None}, "bake: flour: got null, expected str"),
    ],
)
def test_bad_keywords_are_one_line(keywords: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        bake(**keywords)
    assert str(refused.value) == message


def test_values_out_of_range_are_refused_as_by_the_class() -> None:
    with pytest.raises(SettingsError, match="--layers: got 0, expected 1 or more"):
        bake(flour="rye", layers=0)


def test_settings_and_fields_together_are_refused() -> None:
    with pytest.raises(SettingsError) as refused:
        bake(BakeSettings(flour="rye"), layers=2, fan=True)  # type: ignore[call-overload]
    assert str(refused.value) == "bake: got settings and layers, fan; put them into the settings"


def test_another_object_is_refused() -> None:
    with pytest.raises(SettingsError) as refused:
        bake("rye")  # type: ignore[call-overload]
    assert str(refused.value) == "bake: got 'rye', expected BakeSettings or its fields as keyword arguments"


def test_signature_lists_the_fields_required_ones_first() -> None:
    parameters = inspect.signature(bake).parameters
    assert list(parameters) == ["settings", "minutes", "taste", "flour", "degrees", "fan", "layers", "sides"]
    assert parameters["settings"].kind is inspect.Parameter.POSITIONAL_ONLY
    assert parameters["settings"].default is None
    assert parameters["flour"].default is inspect.Parameter.empty
    assert (parameters["layers"].default, parameters["layers"].annotation) == (1, int)
    assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in list(parameters)[2:])


def test_docstring_explains_every_field() -> None:
    own, _, fields = (inspect.getdoc(bake) or "").partition(f"{KEYWORDS}\n")
    assert own == "Bakes.\n\nArgs:\n    settings: of the cake.\n    minutes: in the oven.\n\n"
    assert fields.splitlines() == [
        "    flour: folder of the flour",
        "    degrees: temperature in degrees Celsius; 20 to 250",
        "    fan: whether air circulates; 100 % of the time",
        "    layers: how many",
        "    sides: [low, high] of the tin",
    ]


def test_nearest_class_explains_a_field() -> None:
    assert field_helps(_Oven)["fan"] == "whether air circulates"
    assert field_helps(BakeSettings)["fan"] == "whether air circulates; 100 % of the time"


def test_decorated_functions_keep_their_name_and_can_be_pickled() -> None:
    assert (bake.__name__, bake.__module__) == ("bake", __name__)  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(bake)) is bake


def test_from_keywords_names_the_caller() -> None:
    with pytest.raises(SettingsError, match=r"^Index\.add: missing keys: flour$"):
        from_keywords("Index.add", BakeSettings, {})


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_its_settings_as_keywords(name: str) -> None:
    command = COMMANDS[name]
    function = command.load()
    fields = {field.name: field for field in dataclasses.fields(command.settings)}
    parameters = inspect.signature(function).parameters
    assert fields.keys() <= parameters.keys()
    assert not fields.keys() & inspect.signature(inspect.unwrap(function)).parameters.keys()
    for field_name, field in fields.items():
        required = field.default is dataclasses.MISSING
        assert parameters[field_name].default == (inspect.Parameter.empty if required else field.default)
    with pytest.raises(SettingsError, match=rf"^{name}: unknown keys: colour_of_the_cat"):
        function(colour_of_the_cat="red")
