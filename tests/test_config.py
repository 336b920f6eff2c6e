from dataclasses import dataclass
from typing import Literal

import pytest

from manykin.config import Config, option, options
from manykin.errors import InvalidInput


@dataclass(frozen=True)
class Net(Config):
    layers: int = option(2, "hidden layers", ge=1, le=10)
    rate: float = option(0.1, "learning rate", gt=0)
    act: Literal["relu", "tanh"] = option("relu", "activation")
    widths: tuple[int, ...] = option((64, 64), "widths", ge=1)
    limit: float | None = option(None, "a limit", ge=0)
    fast: bool = option(False, "speed")
    name: str = option("x", "a name")
    init: Literal["auto"] | float = option("auto", "start", gt=0)


def test_json_round_trip():
    net = Net(layers=3, widths=(8,), limit=2.0, init=0.5)
    assert Net.from_json(net.to_json()) == net
    assert net.to_json()["widths"] == [8]


def test_text_of_a_command_line_is_read():
    net = Net.from_json({"layers": "4", "rate": "1e-3", "act": "tanh", "widths": "8,16", "limit": "none", "fast": "true", "init": "0.5"})
    assert net == Net(4, 1e-3, "tanh", (8, 16), None, True, init=0.5)
    assert Net.from_json({"init": "auto"}).init == "auto"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers": 0}, r"model.layers = 0 is not allowed; expected an integer ≥ 1 and ≤ 10 \(default 2\)"),
        ({"layers": 2.0}, "2.0"),
        ({"layers": True}, "True"),
        ({"layers": "many"}, "'many'"),
        ({"rate": 0}, "> 0"),
        ({"rate": float("nan")}, "nan"),
        ({"rate": float("inf")}, "inf"),
        ({"act": "gelu"}, "one of 'relu', 'tanh'"),
        ({"widths": (8, 0)}, "widths"),
        ({"widths": 8}, "a list of int"),
        ({"limit": -1}, "or none"),
        ({"fast": "maybe"}, "true or false"),
        ({"name": 3}, "text"),
        ({"layer": 3}, "model.layer is not an option. Did you mean 'layers'"),
    ],
)
def test_bad_options_are_named(values, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        Net.from_json(values)
    assert "\n" not in str(caught.value)


def test_options_carry_help_and_choices():
    infos = {info.name: info for info in options(Net)}
    assert infos["act"].choices == ("relu", "tanh")
    assert infos["layers"].help == "hidden layers"
    assert infos["limit"].expected() == "a number ≥ 0 or none"


def test_integers_become_floats_where_a_float_is_meant():
    assert isinstance(Net(rate=1).rate, float)
    assert Net().replace({"layers": 5}).layers == 5
