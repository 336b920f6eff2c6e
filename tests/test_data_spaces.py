"""What an input becomes: every row of the table in manykin.data.load, its overrides, and that data comes back as what went in."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image as Pillow

from manykin.data import DataOptions, Form, load_data
from manykin.data.grids import find_step
from manykin.errors import InvalidInput, ManykinWarning
from manykin.spaces import Image, Labels, Record, Table, Tokens, Vector, space_from_json


def rng():
    return np.random.default_rng(0)


def round_trip(x, data):
    """Decode what was loaded, and encode the user's object again, after the space and form went through JSON."""
    form, space = Form.from_json(data.form.to_json()), space_from_json(data.space.to_json())
    encoded = form.encode(x, space)
    held = data.train.all().x
    if isinstance(held, torch.Tensor):
        assert torch.equal(torch.nan_to_num(encoded.double(), nan=-7.0), torch.nan_to_num(held.double(), nan=-7.0))
    return form.decode(encoded, space)


ARRAYS = {
    "floats": (rng().standard_normal((50, 3)), Vector(3)),
    "float32": (rng().standard_normal((50, 3)).astype("float32"), Vector(3)),
    "float16": (rng().standard_normal((50, 3)).astype("float16"), None),
    "one number each": (rng().standard_normal(50), Vector(1)),
    "decimals": (np.round(rng().standard_normal((500, 2)), 1), Vector(2, step=(0.1, 0.1))),
    "whole floats": (rng().integers(0, 17, (60, 4)).astype(float), Vector(4, step=(1.0,) * 4)),
    "some columns on a grid": (np.stack([rng().standard_normal(90), rng().integers(0, 5, 90) / 4], axis=1), Vector(2, step=(0.0, 0.01))),
    "few levels": (rng().integers(0, 5, (60, 3)), Vector(3, levels=5)),
    "booleans": (rng().integers(0, 2, (60, 3)).astype(bool), Vector(3, levels=2)),
    "negative integers": (rng().integers(-5, 5, (60, 3)).astype("int16"), Vector(3, step=(1.0,) * 3)),
    "large integers": (rng().integers(0, 100_000, (60, 2)), Vector(2, step=(1.0,) * 2)),
    "grey pictures": (rng().integers(0, 256, (20, 5, 6)).astype("uint8"), Image((1, 5, 6))),
    "colour pictures": (rng().integers(0, 256, (20, 5, 6, 3)).astype("uint8"), Image((3, 5, 6))),
    "pictures of four channels": (rng().integers(0, 256, (20, 5, 6, 4)).astype("uint8"), Image((4, 5, 6))),
    "16-bit pictures": (rng().integers(0, 65_536, (20, 5, 6)).astype("uint16"), Image((1, 5, 6), 65_536)),
    "black and white": (rng().integers(0, 2, (20, 5, 6)).astype(bool), Image((1, 5, 6), 2)),
    "pictures of floats": (rng().standard_normal((20, 5, 6)), Image((1, 5, 6), None)),
    "pictures k / 255": (rng().integers(0, 256, (20, 5, 6, 3)) / 255, Image((3, 5, 6), 256)),
    "pictures k / 255 in float32": ((rng().integers(0, 256, (20, 5, 6)) / 255).astype("float32"), Image((1, 5, 6), 256)),
    "pictures from -1 to 1": (rng().integers(0, 256, (40, 5, 6)) / 127.5 - 1, Image((1, 5, 6), 256)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_array(name):
    x, space = ARRAYS[name]
    data = load_data(x)
    assert space is None or data.space == space
    assert data.val is None
    assert data.test is None
    assert len(data.train) == len(x)
    data.space.validate(data.train.all().x)
    back = round_trip(x, data)
    assert isinstance(back, np.ndarray)
    assert back.dtype == x.dtype
    if name == "pictures from -1 to 1":
        np.testing.assert_allclose(back, x, rtol=0, atol=1e-12)
    else:
        np.testing.assert_array_equal(back, x)


@pytest.mark.parametrize(
    "x, space",
    [
        (torch.randn(20, 3), Vector(3)),
        (torch.randn(20, 3, dtype=torch.float64), Vector(3)),
        (torch.randn(20, 2).bfloat16(), None),
        (torch.randint(0, 7, (60, 2)), Vector(2, levels=7)),
        (torch.randint(0, 256, (20, 3, 5, 6), dtype=torch.uint8), Image((3, 5, 6))),
        (torch.randint(0, 256, (20, 5, 6), dtype=torch.uint8), Image((1, 5, 6))),
        (torch.randint(0, 256, (20, 4, 4, 4), dtype=torch.uint8), Image((4, 4, 4))),
    ],
    ids=lambda value: str(value) if not isinstance(value, torch.Tensor) else str(value.dtype),
)
def test_tensor(x, space):
    data = load_data(x)
    assert space is None or data.space == space
    back = round_trip(x, data)
    assert torch.equal(back, x)
    assert back.dtype == x.dtype


def test_encoding_keeps_the_graph_of_a_tensor():
    x = torch.randn(5, 2, requires_grad=True)
    data = load_data(x)
    (gradient,) = torch.autograd.grad(data.form.encode(x, data.space).sum(), x)
    assert torch.equal(gradient, torch.ones(5, 2))


def frame(n=40, missing=False):
    r = rng()
    table = pd.DataFrame(
        {
            "real": r.standard_normal(n),
            "real32": r.standard_normal(n).astype("float32"),
            "rounded": np.round(r.standard_normal(n), 1),
            "int": r.integers(0, 9, n),
            "wide": r.integers(0, 10_000, n),
            "Int64": pd.array(r.integers(-4, 9, n), dtype="Int64"),
            "Float64": pd.array(r.standard_normal(n), dtype="Float64"),
            "bool": r.random(n) < 0.5,
            "boolean": pd.array(r.random(n) < 0.5, dtype="boolean"),
            "text": r.choice(["x", "y", "z"], n),
            "string": pd.array(r.choice(["x", "y"], n), dtype="string"),
            "object": pd.Series(r.choice(["p", "q"], n), dtype=object),
            "ordered": pd.Categorical(r.choice(["lo", "hi"], n), categories=["lo", "mid", "hi"], ordered=True),
            "numbers": pd.Categorical(r.integers(3, 6, n)),
            "date": pd.date_range("2020-01-01", periods=n),
            "zoned": pd.date_range("2020-01-01", periods=n, tz="Europe/Berlin", freq="h"),
            "clock": pd.Timestamp("2021-03-04 05:06:07.123456") + pd.to_timedelta(r.integers(0, 10**12, n), unit="us"),
            "delay": pd.to_timedelta(r.integers(0, 100, n), unit="m"),
            7: r.integers(0, 200, n).astype("uint8"),
        }
    )
    if missing:
        for name in table.columns:
            if name not in ("int", "wide", "bool", 7):
                table.loc[[3, 7], name] = None
    return table


@pytest.mark.parametrize("missing", [False, True])
def test_frame_comes_back_with_the_same_dtypes(missing):
    table = frame(missing=missing)
    data = load_data(table)
    assert isinstance(data.space, Table)
    kinds = {column.name: column.kind for column in data.space.columns}
    assert [kinds[name] for name in ("real", "rounded", "int", "Int64", "bool", "text", "ordered", "date", "7")] == [
        "real", "real", "integer", "integer", "categorical", "categorical", "categorical", "real", "integer",
    ]  # fmt: skip
    assert data.train.all().x.dtype == torch.float64
    pd.testing.assert_frame_equal(round_trip(table, data), table)


def test_frame_details():
    columns = {column.name: column for column in load_data(frame(missing=True)).space.columns}
    assert columns["rounded"].step == 0.1
    assert columns["real"].step is None
    assert (columns["int"].low, columns["int"].levels) == (0, 9)
    assert columns["wide"].levels is None
    assert columns["ordered"].categories == ("lo", "mid", "hi"), "declared categories are kept, seen or not"
    assert columns["text"].categories == ("x", "y", "z")
    assert columns["date"].step == 86_400
    assert columns["zoned"].step == 3600
    assert columns["clock"].step is None
    assert columns["bool"].categories == (False, True)
    assert columns["real"].missing
    assert not columns["int"].missing


def test_a_frame_of_no_unusual_columns_serves_vector_models():
    from manykin.transforms import Support, bridge

    data = load_data(pd.DataFrame(rng().standard_normal((30, 3)), columns=list("abc")))
    assert bridge(data.space, Support((Vector,))).target.shape == (3,)


def test_sampled_values_outside_a_dtype_are_clipped():
    data = load_data(pd.DataFrame({"a": rng().integers(-100, 100, 300).astype("int8"), "b": rng().standard_normal(300)}))
    wide = Form.from_json(data.form.to_json()).decode(torch.tensor([[400.0, 0.0], [-400.0, 0.0]]), data.space)
    assert wide["a"].tolist() == [127, -128]


def test_strings():
    texts = ["abc", "", "ba", "cab"]
    data = load_data(texts)
    assert data.space == Tokens(4, 4, 3, ("a", "b", "c", ""))
    assert round_trip(texts, data) == texts
    as_array = load_data(np.array(texts))
    assert as_array.space == data.space


def test_strings_in_bytes():
    texts = ["grün", "€"]
    data = load_data(texts, options={"unit": "bytes"})
    assert data.space.vocab == 257
    assert round_trip(texts, data) == texts


def test_record():
    x = {"where": rng().standard_normal((20, 2)), "what": rng().integers(0, 256, (20, 4, 4, 3)).astype("uint8")}
    data = load_data(x)
    assert data.space == Record({"where": Vector(2), "what": Image((3, 4, 4))})
    back = round_trip(x, data)
    assert all(np.array_equal(back[key], x[key]) and back[key].dtype == x[key].dtype for key in x)


def test_numeric_csv_is_a_table(tmp_path):
    path = tmp_path / "numbers.csv"
    pd.DataFrame(rng().standard_normal((50, 2)), columns=["a", "b"]).to_csv(path, index=False)
    data = load_data(path)
    assert isinstance(data.space, Table)
    assert (len(data.train), len(data.val), len(data.test)) == (40, 5, 5)


def test_csv_and_parquet_give_the_same_table(tmp_path):
    table = pd.DataFrame({"a": rng().standard_normal(60), "b": rng().choice(["x", "y"], 60), "c": rng().integers(0, 3, 60)})
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet", index=False)
    one, two = load_data(tmp_path / "t.csv"), load_data(tmp_path / "t.parquet")
    assert one.space == two.space
    assert torch.equal(one.train.all().x, two.train.all().x)


def test_pictures_in_a_folder(tmp_path):
    for index in range(10):
        Pillow.fromarray(rng().integers(0, 256, (5, 6, 3)).astype("uint8") + index).save(tmp_path / f"{index}.png")
    data = load_data(tmp_path)
    assert data.space == Image((3, 5, 6))
    assert data.form.kind == "images"
    assert data.form.decode(data.train.all().x, data.space).shape == (8, 5, 6, 3)


def test_text_file_is_a_stream(tmp_path):
    path = tmp_path / "book.txt"
    text = "to be or not to be, that is the question\n" * 100
    path.write_text(text)
    data = load_data(path, options={"length": 20})
    assert data.space.end is None
    assert data.space.length == 20
    joined = "".join("".join(data.form.decode(rows.all().x, data.space)) for rows in (data.train, data.val, data.test))
    assert len(text) - len(joined) < 60
    assert text.startswith(joined[:3000])


def test_text_file_of_lines(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("\n".join(["anna", "bob", "cara"] * 10))
    data = load_data(path, options={"lines": True})
    assert data.space == Tokens(7, 5, 6, (*sorted(set("annabobcara")), ""))
    assert set(data.form.decode(data.train.all().x, data.space)) == {"anna", "bob", "cara"}


# Overrides.


def test_levels_step_and_kind_override():
    x = rng().integers(0, 17, (60, 4))
    assert load_data(x, options={"levels": 20}).space == Vector(4, levels=20)
    assert load_data(x.astype(float), options={"step": False}).space == Vector(4)
    assert load_data(x.astype("uint8").reshape(60, 2, 2), options={"levels": 17}).space == Image((1, 2, 2), 17)
    pictures = rng().integers(0, 256, (60, 3, 3)).astype("uint8")
    data = load_data(pictures, options={"kind": "vector"})
    assert data.space == Vector(9, levels=256)
    np.testing.assert_array_equal(round_trip(pictures, data), pictures)


def test_a_numeric_table_as_vectors():
    table = pd.DataFrame({"a": rng().standard_normal(30), "b": rng().integers(0, 9, 30), "y": rng().choice(["u", "v"], 30)})
    data = load_data(table, condition="y", options={"kind": "vector"})
    assert data.space == Vector(2, step=(0.0, 1.0))
    np.testing.assert_array_equal(data.form.decode(data.train.all().x, data.space), table[["a", "b"]].to_numpy())


def test_channels_override():
    x = rng().integers(0, 256, (20, 3, 5, 4)).astype("uint8")
    assert load_data(x).space == Image((4, 3, 5))
    first = load_data(x, options={"channels": "first"})
    assert first.space == Image((3, 5, 4))
    np.testing.assert_array_equal(round_trip(x, first), x)


def test_columns_override():
    table = frame()
    data = load_data(table, options=DataOptions(categorical=("int",), real=("wide", "rounded"), drop=("text", "7")))
    columns = {column.name: column for column in data.space.columns}
    assert columns["int"].kind == "categorical"
    assert columns["int"].categories == tuple(range(9))
    assert columns["wide"].kind == "real"
    assert columns["wide"].step is None
    assert columns["rounded"].step is None
    assert "text" not in columns
    back = round_trip(table, data)
    pd.testing.assert_frame_equal(back, table.drop(columns=["text", 7]), check_column_type=False)


def test_unknown_columns_in_options():
    with pytest.raises(InvalidInput, match=r"data.categorical names the column 'itn', which the table does not have. Did you mean 'int'\?"):
        load_data(frame(), options={"categorical": ("itn",)})
    with pytest.raises(InvalidInput, match="data.drop names the column 'nothing'"):
        load_data(frame(), options={"drop": ("nothing",)})
    with pytest.raises(InvalidInput, match=r"data.delimeter is not an option. Did you mean 'delimiter'\?"):
        load_data(frame(), options={"delimeter": ";"})


# Grids.


@pytest.mark.parametrize(
    "values, found",
    [
        (np.round(rng().standard_normal(1000), 2), (0.01, 0.0)),
        (rng().integers(0, 256, 5000) / 255, (1 / 255, 0.0)),
        (rng().integers(0, 9, 100).astype(float), (1.0, 0.0)),
        (np.full(20, 3.0), (1.0, 0.0)),
        (rng().standard_normal(1000), None),
        (np.repeat(rng().standard_normal(300), 4), None),
        (np.round(rng().standard_normal(50) * 1e4, 4), None),
        (rng().exponential(size=500) * (rng().random(500) < 0.5), None),
    ],
    ids=["cents", "k/255", "whole", "constant whole", "continuous", "repeated rows", "fine decimals", "many zeros"],
)
def test_find_step(values, found):
    step = find_step(values, 2.3e-16)
    assert step == found if found is None else step == pytest.approx(found)


def test_find_step_in_float32():
    values = (rng().integers(0, 256, 5000) / 255).astype("float32")
    assert find_step(values, float(np.finfo("float32").eps))[0] == pytest.approx(1 / 255, rel=1e-6)


# Conditions.


def test_conditions_in_memory():
    x = rng().standard_normal((30, 2))
    texts = rng().choice(["cat", "dog"], 30)
    data = load_data(x, condition=texts)
    assert data.condition == Labels(2, ("cat", "dog"))
    assert data.train.all().condition.tolist() == [int(text == "dog") for text in texts]
    assert load_data(x, condition=np.arange(30) % 3).condition == Labels(3)
    assert load_data(x, condition=np.arange(30) % 3 + 5).condition == Labels(3, (5, 6, 7))
    assert load_data(x, condition=torch.arange(30) % 2 == 0).condition == Labels(2, (False, True))
    assert load_data(x, condition=pd.Series(texts, dtype="category")).condition == Labels(2, ("cat", "dog"))
    assert load_data(x, condition=list(texts)).condition == Labels(2, ("cat", "dog"))
    real = load_data(x, condition=rng().standard_normal((30, 3)))
    assert real.condition == Vector(3)
    assert real.train.all().condition.dtype == torch.float32
    assert load_data(x, condition=rng().standard_normal(30)).condition == Vector(1)


def test_condition_column_leaves_the_table():
    table = frame()
    data = load_data(table, condition="text")
    assert data.condition == Labels(3, ("x", "y", "z"))
    assert "text" not in [column.name for column in data.space.columns]
    assert load_data(table, options={"condition": "text"}).condition == data.condition


# Values never seen in training.


def test_unseen_values_leave_the_held_out_splits(tmp_path):
    path = tmp_path / "rare.csv"
    n = 200
    table = pd.DataFrame({"a": rng().standard_normal(n), "b": rng().choice(["x", "y"], n), "c": rng().integers(0, 4, n)})
    table.to_csv(path, index=False)
    test = load_data(path).test.index
    table.loc[int(test[0]), "b"] = "never"
    table.loc[int(test[1]), "c"] = 9
    table.to_csv(path, index=False)
    with pytest.warns(ManykinWarning, match="2 test rows hold values never seen in training"):
        data = load_data(path)
    assert data.provenance["outside"] == {"test": 2}
    assert data.provenance["rows"] == {"train": 160, "val": 20, "test": 18}
    columns = {column.name: column for column in data.space.columns}
    assert columns["b"].categories == ("x", "y")
    assert columns["c"].levels == 4
    with pytest.raises(InvalidInput, match=r"x, column 'b' holds 'never' in row 0; expected one of 'x', 'y'"):
        data.form.encode(pd.DataFrame({"a": [0.0], "b": ["never"], "c": [1]}), data.space)


def test_categories_do_not_depend_on_the_test_rows(tmp_path):
    path = tmp_path / "t.csv"
    table = pd.DataFrame({"a": rng().standard_normal(100), "b": rng().integers(0, 50, 100)})
    table.to_csv(path, index=False)
    first = load_data(path)
    order = first.test.index.numpy()
    table.iloc[order] = table.iloc[order[::-1]].to_numpy()
    table.to_csv(path, index=False)
    again = load_data(path)
    assert first.space == again.space
    assert torch.equal(first.train.all().x, again.train.all().x)


def test_unseen_symbols_leave_the_stream(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("abcd" * 200 + "z" + "abcd" * 20)
    with pytest.warns(ManykinWarning, match="1 test rows hold values never seen"):
        data = load_data(path, options={"length": 8})
    assert data.space.symbols == ("a", "b", "c", "d")
    assert load_data(path, options={"length": 8, "unit": "bytes"}).provenance["outside"] == {}
