import json

import pytest
import torch

from manykin.errors import InvalidInput
from manykin.spaces import Column, Image, Labels, Record, Space, Table, Tokens, Vector, cat, count, space_from_json, take

SPACES: list[Space] = [
    Vector(3),
    Vector(2, levels=5, names=("a", "b")),
    Vector(2, step=(0.5, 0.0), low=(0.25, 0.0)),
    Image((1, 2, 3)),
    Image((3, 4, 4), None),
    Image((1, 2, 2), 7, ordinal=False),
    Labels(3, ("cat", 2, True)),
    Tokens(5, 4, end=0, symbols=("", "a", "b", "c", "d")),
    Tokens(256, 16),
    Table((Column("r", missing=True), Column("i", "integer", low=-2, levels=5), Column("c", "categorical", ("x", "y")))),
    Record({"picture": Image((1, 2, 2), 4), "label": Labels(2)}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_json_round_trip(space):
    assert space_from_json(json.loads(json.dumps(space.to_json()))) == space
    assert hash(space) == hash(space_from_json(space.to_json()))


def test_unknown_space_and_key_are_refused():
    with pytest.raises(InvalidInput, match="'Sphere' is not known"):
        space_from_json({"space": "Sphere"})
    with pytest.raises(InvalidInput, match="unknown keys \\['radius'\\]"):
        space_from_json({"space": "Vector", "size": 2, "radius": 1})


@pytest.mark.parametrize(
    ("space", "x", "message"),
    [
        (Vector(2), torch.zeros(0, 2), "empty"),
        (Vector(2), torch.zeros(3), "shape \\(3,\\)"),
        (Vector(2), torch.zeros(3, 4), "shape \\(3, 4\\); expected \\(n, 2\\)"),
        (Vector(2), torch.zeros(3, 2, dtype=torch.int64), "dtype int64"),
        (Vector(2), torch.tensor([[0.0, 1.0], [2.0, float("nan")]]), "nan at row 1, column 1 \\(1 of 2 rows"),
        (Vector(2, names=("a", "b")), torch.tensor([[0.0, float("inf")]]), "inf at row 0, column 'b'"),
        (Vector(1, levels=4), torch.tensor([[1.0], [4.0]]), "4 in row 1"),
        (Vector(1, levels=4), torch.tensor([[1.5]]), "1.5 in row 0"),
        (Vector(1, step=(0.5,), low=(0.25,)), torch.tensor([[0.75], [0.6]]), "0.6 in row 1; expected values on the grid"),
        (Image((1, 1, 2), 17), torch.tensor([[[[3, 17]]]], dtype=torch.uint8), "17 in row 0"),
        (Image((1, 1, 2), None), torch.zeros(1, 1, 1, 2, dtype=torch.uint8), "dtype uint8"),
        (Labels(3), torch.tensor([0, 3]), "3 in row 1"),
        (Labels(3), torch.tensor([0.0]), "dtype float32"),
        (Tokens(4, 3, end=0), torch.tensor([[1, 0, 2]]), "row 0 does not end"),
        (Tokens(4, 3, end=0), torch.tensor([[1, 2, 3]]), "row 0 does not end"),
        (Tokens(4, 3), torch.tensor([[1, 2, -1]]), "-1 in row 0"),
        (Table((Column("a"),)), torch.tensor([[float("nan")]]), "column 'a' holds nan"),
        (Table((Column("c", "categorical", ("x", "y")),)), torch.tensor([[2.0]]), "'c' holds 2"),
        (Table((Column("i", "integer"),)), torch.tensor([[1.0], [2.5]]), "'i' holds 2.5 in row 1; expected whole numbers"),
        (Table((Column("i", "integer", low=3, levels=2),)), torch.tensor([[5.0]]), "from 3 to 4"),
        (Vector(2), [[1.0, 2.0]], "is a list"),
        (Record({"a": Vector(1), "b": Labels(2)}), {"a": torch.zeros(2, 1)}, "fields \\['a'\\]"),
        (Record({"a": Vector(1), "b": Labels(2)}), {"a": torch.zeros(2, 1), "b": torch.zeros(3, dtype=torch.long)}, "different lengths"),
    ],
)
def test_bad_values_are_named(space, x, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        space.validate(x)
    assert "\n" not in str(caught.value)


def test_missing_values_only_where_allowed():
    space = Table((Column("a", missing=True),))
    x = torch.tensor([[1.0], [float("nan")]])
    assert space.validate(x) is x
    with pytest.raises(InvalidInput, match="inf"):
        space.validate(torch.tensor([[float("inf")]]))


def test_discreteness_and_dims():
    assert [space.discrete for space in SPACES] == [False, True, False, True, False, True, True, True, True, False, True]
    strings = torch.tensor([[1, 2, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]])
    assert Tokens(5, 4, end=0).dims(strings).tolist() == [3, 1, 4]
    assert Image((1, 2, 3)).dims(torch.zeros(2, 1, 2, 3)).tolist() == [6, 6]


def test_values_of_records_are_sliced_and_joined():
    x = {"a": torch.arange(4.0)[:, None], "b": torch.arange(4)}
    parts = [take(x, slice(0, 1)), take(x, slice(1, 4))]
    joined = cat(parts)
    assert count(joined) == 4
    assert torch.equal(joined["b"], x["b"])


@pytest.mark.parametrize("make", [lambda: Vector(0), lambda: Vector(2, levels=0), lambda: Vector(2, step=(1.0,)), lambda: Image((1, 0, 2)),
                                  lambda: Labels(0), lambda: Labels(2, ("a",)), lambda: Tokens(3, 2, end=3), lambda: Table(()),
                                  lambda: Table((Column("a"), Column("a"))), lambda: Column("c", "categorical"), lambda: Column("c", "colour"),
                                  lambda: Record({})])  # fmt: skip
def test_impossible_spaces_are_refused(make):
    with pytest.raises(InvalidInput, match="expected|needs"):
        make()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "space is 3; expected an object"),
        ({}, "space None is not known"),
        ({"space": ["Vector"]}, "space \\['Vector'\\] is not known"),
        ({"space": "Vector"}, "space has no key 'size'; expected an integer"),
        ({"space": "Vector", "size": "2"}, "space.size is '2'; expected an integer"),
        ({"space": "Vector", "size": True}, "space.size is True"),
        ({"space": "Vector", "size": 2.0}, "space.size is 2.0"),
        ({"space": "Vector", "size": 10**30}, "space.size is 1000"),
        ({"space": "Vector", "size": 2, "levels": [4]}, "space.levels is \\[4\\]; expected an integer or null"),
        ({"space": "Vector", "size": 1, "step": [None]}, "space.step is \\[None\\]; expected a list of a finite number or null"),
        ({"space": "Vector", "size": 1, "step": [-1.0]}, "negative or not finite"),
        ({"space": "Vector", "size": 1, "names": "a"}, "space.names is 'a'; expected a list of text"),
        ({"space": "Image", "size": [1, 2]}, "space.size is \\[1, 2\\]; expected a list of 3 of an integer"),
        ({"space": "Image", "size": [1, 2, 3], "ordinal": 1}, "space.ordinal is 1; expected true or false"),
        ({"space": "Labels", "classes": 2, "names": [[1], 2]}, "space.names is \\[\\[1\\], 2\\]"),
        ({"space": "Tokens", "vocab": 3, "length": None}, "space.length is None"),
        ({"space": "Table"}, "expected 'columns' alone, a list"),
        ({"space": "Table", "columns": [1]}, "space.columns\\[0\\] is 1; expected an object"),
        ({"space": "Table", "columns": [{"name": "a", "low": float("nan")}]}, "space.columns\\[0\\].low is nan; expected a finite number"),
        ({"space": "Table", "columns": [{"name": "a", "kind": "colour"}]}, "columns\\[0\\].kind is 'colour'; expected one of real, integer, cat"),
        ({"space": "Record"}, "expected 'fields' alone, a list"),
        ({"space": "Record", "fields": [["a"]]}, "space.fields\\[0\\] is \\['a'\\]; expected a name and a space"),
        ({"space": "Record", "fields": [["a", {"space": "Record", "fields": []}]]}, "not itself a Record"),
        ({"space": "Record", "fields": [["a", {"space": "Vector", "size": None}]]}, "space.a.size is None"),
    ],
)
def test_damaged_json_is_named_by_its_key(data, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        space_from_json(data)
    assert "\n" not in str(caught.value)


def test_repeated_names_are_found_in_wide_tables():
    columns = [Column(f"x{index}") for index in range(20_000)]
    assert Table(tuple(columns)).shape == (20_000,)
    with pytest.raises(InvalidInput, match="repeated column names \\['x7'\\]"):
        Table((*columns, Column("x7")))
