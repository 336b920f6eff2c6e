"""Bad data: one clear line that names the value, what was expected, and the remedy."""

import builtins
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image as Pillow

from manykin.data import limits, load_data
from manykin.data.files import read_parquet
from manykin.data.options import DataOptions
from manykin.errors import InvalidInput, ManykinWarning
from manykin.spaces import Vector


def rng():
    return np.random.default_rng(0)


def refused(source, match, **arguments):
    with pytest.raises(InvalidInput, match=match) as caught:
        load_data(source, **arguments)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def with_bad(x, value, *places):
    for place in places:
        x[place] = value
    return x


def table(**columns):
    n = len(next(iter(columns.values()))) if columns else 10
    return pd.DataFrame({"ok": rng().standard_normal(n), **columns})


# In memory.

X = rng().standard_normal((30, 3))

MEMORY = {
    "empty": (np.zeros((0, 3)), r"x is empty \(shape \(0, 3\)\); expected rows of data"),
    "no columns": (np.zeros((3, 0)), "x is empty"),
    "empty list": ([], "x is empty"),
    "empty frame": (pd.DataFrame({"a": []}), r"the DataFrame is empty \(0 rows, 1 columns\)"),
    "one row": (X[:1], "array has 1 row; expected at least 2 to learn from"),
    "one string": (["abc"], "strings has 1 row; expected at least 2"),
    "all constant": (np.full((20, 3), 0.1), "x is constant: all 60 entries are 0.1; expected data that varies"),
    "constant pictures": (np.zeros((20, 4, 4), "uint8"), "x is constant: all 320 entries are 0"),
    "constant table": (pd.DataFrame({"a": [1] * 20, "b": ["u"] * 20}), "x is constant: all 20 training rows are the same"),
    "equal strings": (["ab"] * 9, "x is constant: all 9 training rows are the same"),
    "NaN": (with_bad(X.copy(), np.nan, (3, 1), (17, 2)), r"x holds nan in rows 3, 17, columns 1, 2; expected finite numbers: drop or fill"),
    "infinity": (with_bad(X.copy(), -np.inf, (4, 0)), r"x holds -inf in row 4, column 0; expected finite numbers"),
    "huge": (with_bad(X.copy(), -1e300, (4, 2)), r"x holds -1e\+300 in row 4, column 2; expected magnitudes of at most 1e\+100, .*: rescale"),
    "huge pictures": (with_bad(rng().random((9, 4, 4)), 1e200, (5, 1, 1)), r"x holds 1e\+200 in row 5; expected magnitudes"),
    "huge in a column": (table(a=with_bad(np.arange(20) / 7, 1e300, 6)), r"column 'a' holds 1e\+300 in row 6 .*; expected magnitudes .* rescale"),
    "NaN in a tensor": (torch.tensor([[0.0], [float("nan")], [1.0]]), r"x holds nan in row 1, column 0"),
    "NaN in pictures": (with_bad(rng().random((9, 4, 4)), np.nan, (5, 1, 1)), "x holds nan in row 5; expected finite numbers"),
    "object array": (np.array([[1, "a"], [2, "b"]], dtype=object), r"x is an object array; expected numbers. Convert it with astype\(float\)"),
    "texts in rows": (np.array([["a", "b"], ["c", "d"]]), r"x is an array of dtype <U1; expected numbers"),
    "complex": (np.ones((4, 2)) * 1j, "x is an array of dtype complex128; expected numbers"),
    "ragged list": ([[1.0, 2.0], [3.0]], "x is a list of unequal rows; expected rows of equal length"),
    "five axes": (np.zeros((2, 2, 2, 2, 2)) + X[:2, 0, None, None, None, None], r"x has shape \(2, 2, 2, 2, 2\); expected \(n, d\) numbers"),
    "seven channels": (rng().random((5, 9, 9, 7)), "expected 1 to 4 channels in the last axis, or name the axis with --data.channels"),
    "a number": (3, "the data is an int; expected a data set's name, a path, an array"),
    "nothing": (None, "the data is a NoneType; expected"),
    "mixed strings": (["a", 3, "b"], "x, entry 1 is 3; expected a string"),
    "fields of two lengths": ({"a": X, "b": X[:5]}, r"fields of one length each; got \{'a': 30, 'b': 5\}"),
    "infinity in a column": (table(a=with_bad(np.arange(20) / 7, np.inf, 6)), r"column 'a' holds infinity in row 6 .*; expected finite"),
    "strings among numbers": (
        table(a=["1", "2", "3", "4", "5", "6", "seven", "8", "9", "ten"] * 2),
        r"column 'a' is numeric but for 'seven', 'ten' in rows 6, 9, 16, 19 .*; fix these, mark them with --data.missing, or declare",
    ),
    "lists in a column": (table(a=[[1], [2]] * 5), r"column 'a' holds a list in row 0 \(counted from 0, without the header\); expected"),
    "empty column": (table(a=[None] * 10), "column 'a' has no values; leave it out with --data.drop a"),
    "constant real column": (table(a=[0.123456789] * 10), "column 'a' is constant .* its density is unbounded; drop it, or declare it categorical"),
    "identifiers": (table(a=[2**60 + k for k in range(10)]), r"column 'a' holds whole numbers beyond 2\^53, as identifiers do"),
    "too many texts": (table(a=[f"name {k}" for k in range(1500)]), "column 'a' holds 1500 different texts; at most 1000 categories are read"),
    "nanoseconds": (table(a=pd.to_datetime([10**18 + k for k in range(10)])), "column 'a' holds times finer than a microsecond; round them"),
    "periods": (table(a=pd.period_range("2020", periods=10, freq="M")), r"column 'a' has dtype period\[M\]; expected numbers, texts"),
    "repeated names": (pd.DataFrame(rng().random((10, 3)), columns=["a", "b", "a"]), "the column name 'a' 2 times; expected distinct"),
    "levels of columns": (pd.DataFrame({("a", "b"): X[:, 0], ("a", "c"): X[:, 1]}), "columns of several levels"),
}  # fmt: skip


@pytest.mark.parametrize("name", MEMORY)
def test_memory(name):
    source, message = MEMORY[name]
    refused(source, message)


def test_constant_columns_of_whole_numbers_and_levels_are_fine():
    x = rng().integers(0, 3, (20, 3))
    x[:, 1] = 2
    assert load_data(x).space == Vector(3, levels=3)
    assert load_data(x.astype(float)).space == Vector(3, step=(1.0, 1.0, 1.0))
    assert load_data(table(a=[1] * 20, b=["u"] * 20)).space.columns[1].levels == 1


def test_options_that_do_not_fit():
    refused(X, r"data.kind = 'table' does not fit an array", options={"kind": "table"})
    refused(X, "data.val = 1.5 is not allowed; expected a number ≥ 0 and < 1", options={"val": 1.5})
    refused(rng().integers(0, 9, (20, 2)), r"x ranges from 0 to 8; data.levels = 5 expects 0 to 4", options={"levels": 5})
    refused(table(a=["u", "v"] * 5), "column 'a' was declared a number, but holds texts such as 'u'", options={"integer": ("a",)})
    refused(table(), "column 'ok' was declared integer, but holds .*; expected whole numbers", options={"integer": ("ok",)})
    refused(table(), "data.kind = 'image' does not fit the DataFrame; expected table", options={"kind": "image"})
    refused("digits", "data.levels does not apply to digits, which has a space and splits of its own", options={"levels": 17})
    refused(["abc", "d"], r"string 0 has 3 characters; at most 2 \(data.length\) are allowed", options={"length": 2})


# Conditions.


def test_conditions():
    t = table(a=rng().choice(["u", "v"], 30))
    refused(t, r"the condition column 'aa' is not in the table. Did you mean 'a'\?", condition="aa")
    refused(t[["a"]], "the table has no column besides the condition 'a'", condition="a")
    refused(X, "the condition has 29 values for 30 rows of data; expected one a row", condition=np.zeros(29, int))
    refused(X, r"condition holds nan in rows 2, 9; expected a value for each example", condition=with_bad(np.zeros(30), np.nan, 2, 9))
    refused(X, r"condition is missing in row 4; expected a value for each example", condition=[None if k == 4 else "u" for k in range(30)])
    refused(X, "condition holds values of the types int, str", condition=np.array([1, "u"] * 15, dtype=object))
    refused(
        rng().random((1200, 2)), "the condition has 1200 different values in 1200 rows; at most 1000 classes are taken", condition=np.arange(1200)
    )
    refused(X, "condition = 'label', but array brings no labels", condition="label")
    refused(X, "condition = True, but array brings no labels", condition=True)
    refused(X, r"condition has shape \(30, 2, 2\); expected \(n,\) labels or \(n, k\) numbers", condition=np.zeros((30, 2, 2)))
    refused("digits", "condition = 'labl' does not fit the data set digits; expected 'label'", condition="labl")
    refused("digits", "condition = a list does not fit the data set digits", condition=[1, 2])


def test_unknown_labels_of_a_fitted_model():
    from manykin.data.conditions import encode_condition
    from manykin.spaces import Labels

    assert encode_condition(["dog"], Labels(2, ("cat", "dog"))).tolist() == [1]
    assert encode_condition(3, Labels(10)).tolist() == [3]
    assert encode_condition("3", Labels(10)).tolist() == [3]
    assert encode_condition("7", Labels(2, (5, 7))).tolist() == [1]
    with pytest.raises(InvalidInput, match=r"condition holds 'dgo' in row 0; expected one of 'cat', 'dog'. Did you mean 'dog'\?"):
        encode_condition(["dgo"], Labels(2, ("cat", "dog")))
    with pytest.raises(InvalidInput, match="condition holds '10' in row 1; expected one of 0, 1, 2, 3, 4 and 5 more"):
        encode_condition([0, 10], Labels(10))
    with pytest.raises(InvalidInput, match="condition has 3 values for 4 rows"):
        encode_condition([0, 1, 2], Labels(10), 4)


# Encoding new data for a fitted model.


def test_encoding_what_does_not_fit():
    data = load_data(table(a=rng().choice(["u", "v"], 30), b=rng().integers(0, 3, 30)))

    def encode(obj, match):
        with pytest.raises(InvalidInput, match=match):
            data.form.encode(obj, data.space)

    encode(pd.DataFrame({"ok": [0.0], "a": ["u"]}), r"x has no column 'b'; expected the columns 'ok', 'a', 'b'")
    encode(pd.DataFrame({"ok": ["text"], "a": ["u"], "b": [1]}), "x, column 'ok' holds 'text' in row 0; expected a number")
    encode(pd.DataFrame({"ok": [0.0], "a": ["w"], "b": [1]}), "x, column 'a' holds 'w' in row 0; expected one of 'u', 'v'")
    encode(pd.DataFrame({"ok": [0.0], "a": ["u"], "b": [7]}), "column 'b' holds 7 .*; expected a whole number from 0 to 2")
    encode(pd.DataFrame({"ok": [np.nan], "a": ["u"], "b": [1]}), "column 'ok' holds nan .*; expected finite numbers")
    encode(np.zeros((2, 5)), "x is a ndarray of shape")
    assert data.form.encode([[0.5, "u", 1]], data.space).tolist() == [[0.5, 0.0, 1.0]]
    vectors = load_data(X)
    with pytest.raises(InvalidInput, match=r"x has shape \(2, 4\); expected \(n, 3\)"):
        vectors.form.encode(np.zeros((2, 4)), vectors.space)
    texts = load_data(["ab", "ba"])
    with pytest.raises(InvalidInput, match="x, string 0 holds 'c', which no training text held"):
        texts.form.encode(["ac"], texts.space)
    with pytest.raises(InvalidInput, match="x, string 1 has 3 characters; expected at most 2"):
        texts.form.encode(["a", "aaa"], texts.space)


# Names and paths.


def test_names_and_paths(tmp_path, monkeypatch):
    refused("digts", r"'digts' is neither a data set nor a file or folder. Did you mean 'digits'\?")
    refused("two-mon", "Did you mean 'two-moons'")
    (tmp_path / "table.csv").write_text("a\n1\n2\n")
    refused(tmp_path / "tabel.csv", r"tabel.csv does not exist. Did you mean 'table.csv'\?")
    refused("nowhere/x.npy", "nowhere/x.npy does not exist. Give the path of a file or folder, or a name listed by")
    (tmp_path / "x.xlsx").write_bytes(b"PK\x03\x04\0\0")
    refused(tmp_path / "x.xlsx", "x.xlsx is an archive; expected data: unpack it first")
    (tmp_path / "x.exe").write_bytes(b"\0\1\2")
    refused(
        tmp_path / "x.exe",
        "x.exe is of no known kind; expected .csv, .tsv, .data, .txt, .text, .md, .parquet, .pq, .npy, .npz or a folder of pictures.$",
    )
    (tmp_path / "zero.npy").write_bytes(b"")
    refused(tmp_path / "zero.npy", r"zero.npy is empty \(0 bytes\)")
    refused(tmp_path, "holds no pictures; expected files ending in .png, .jpg")


def test_a_table_under_another_suffix(tmp_path):
    path = tmp_path / "adult.test"
    path.write_text("a, b\n" + "".join(f"{k / 7:.6f}, {'u' if k % 2 else 'v'}\n" for k in range(40)))
    refused(path, r"adult.test is of no known kind; .*; its lines split evenly at ',': to read it as CSV, give --data.kind table")
    data = load_data(path, options={"kind": "table"})
    assert [column.name for column in data.space.columns] == ["a", "b"]
    assert data.provenance["source"] == "csv"
    path.rename(tmp_path / "adult.txt")
    assert load_data(tmp_path / "adult.txt", options={"kind": "table"}).space == data.space
    (tmp_path / "x.log").write_text("one line of words\nand another\n")
    refused(tmp_path / "x.log", "x.log is of no known kind; .*; if it is text, give --data.kind text, or table for a CSV")


def test_constant_arrays_in_a_file_are_named(tmp_path):
    np.save(tmp_path / "c.npy", np.full((50, 2), 3.5))
    refused(tmp_path / "c.npy", "c.npy is constant: all 100 entries are 3.5")


def test_a_file_is_looked_at_before_it_is_hashed(tmp_path, monkeypatch):
    from manykin.data import source

    monkeypatch.setattr(source, "sha256_of_file", lambda path: pytest.fail("hashed first"))
    for name in ("x.npy", "x.npz", "x.parquet"):
        (tmp_path / name).write_bytes(bytes(1000))
        refused(tmp_path / name, f"{name} is damaged or not a")


def test_labels_of_an_npz_that_do_not_fit(tmp_path):
    path = tmp_path / "x.npz"
    labels = np.arange(30) % 3
    np.savez(path, x_train=X, y_train=labels[:29], x_test=X, y_test=labels)
    refused(path, "x.npz holds 29 labels in y_train for 30 rows in x_train; expected one label a row")
    np.savez(path, x=X, y=labels[:7])
    refused(path, "x.npz holds 7 labels in y for 30 rows in x", condition=True)
    assert len(load_data(path, options={"array": "x"}).train) == 24
    np.savez(path, x_train=X, y_train=labels, x_test=X)
    refused(path, "condition = 'label', but x has no labels for its split 'test'; expected labels for every split", condition="label")
    assert load_data(path).condition is None


def test_no_permission(tmp_path, monkeypatch):
    path = tmp_path / "x.csv"
    path.write_text("a\n1\n2\n")
    genuine = Path.open

    def refuse(self, *arguments, **options):
        if self == path:
            raise PermissionError(13, "Permission denied")
        return genuine(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    refused(path, r"x.csv cannot be read: permission denied. Change its permissions \(chmod u\+r\)")


def test_a_failing_disk(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    path.write_text("abc")
    monkeypatch.setattr(Path, "read_bytes", lambda self: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    refused(path, "x.txt cannot be read: Input/output error. Check the file and the disk")


# Damaged files.


def test_npy(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, X)
    content = path.read_bytes()
    path.write_bytes(content[:-8])
    refused(path, rf"x.npy is cut short: {len(content) - 8} of {len(content)} bytes; write it again")
    path.write_bytes(content[:20])
    refused(path, "x.npy is damaged or not a NumPy file")
    path.write_bytes(b"hello world, this is no array")
    refused(path, "x.npy is damaged or not a NumPy file")
    np.save(path, np.array([1, "a"], dtype=object), allow_pickle=True)
    refused(path, "x.npy is an object array, which only unpickling could read and is not done")
    np.save(path, np.zeros(3, dtype=[("a", float)]))
    refused(path, "expected plain numbers or texts")
    np.save(path, np.zeros((0, 3)))
    refused(path, r"x.npy holds an array of shape \(0, 3\); expected rows of data")
    huge = np.lib.format.header_data_from_array_1_0(X) | {"shape": (10**15, 3)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, huge)
    refused(path, "x.npy is cut short: 128 of 24000000000000128 bytes")


def test_npz(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    np.savez(path, x=X)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(path, "x.npz is damaged or not an NPZ file")
    path.write_bytes(content[:100] + bytes(50) + content[150:])
    refused(path, "x.npz.* is damaged or not a")
    np.savez(path, x=np.array([1, "a"], dtype=object), allow_pickle=True)
    refused(path, "x.npz, array 'x' is an object array, which only unpickling could read")
    np.savez(path)
    refused(path, "x.npz holds no arrays")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"nothing of an array")
    refused(path, "x.npz, array 'x' is damaged or not a NumPy file")
    np.savez(path, x_train=X, x_test=X[:0])
    refused(path, r"x.npz, split 'test' is empty")


def test_npz_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros((2_000_000, 4)))
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(np, "load", lambda *arguments, **options: pytest.fail("the bomb was unpacked"))
    refused(path, r"bomb.npz needs about 64 MB of memory; at most 10 MB \(data.max_bytes\)", options={"max_bytes": 10_000_000})
    monkeypatch.setattr(limits, "available_memory", lambda: 40_000_000)
    refused(path, r"bomb.npz needs about 64 MB of memory; at most 20 MB \(half of the free memory\) may be used. Save the array as NPY")


def test_npz_whose_header_lies(tmp_path):
    path = tmp_path / "x.npz"
    header = np.lib.format.header_data_from_array_1_0(X) | {"shape": (10**12, 3)}
    with zipfile.ZipFile(path, "w") as archive, archive.open("x.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, header)
    refused(path, "x.npz, array 'x' is cut short: its header promises more than the archive holds")


def test_npz_reads_arrays_only_and_no_more_than_the_archive_states(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=X)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("other.bin", bytes(50_000_000))
    load_data(path, options={"max_bytes": 1_000_000})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive, archive.open("x.npy", "w") as file:
        np.lib.format.write_array(file, X)
    refused(path, "x.npz, array 'x' is packed in a way that numpy never writes")
    np.savez_compressed(path, x=np.zeros((100_000, 4)))
    content = path.read_bytes()
    stated = (3_200_128).to_bytes(4, "little")
    assert content.count(stated) == 2, "in the member's own header and in the directory"
    path.write_bytes(content.replace(stated, (128).to_bytes(4, "little")))
    refused(path, "x.npz, array 'x' is (cut short|damaged)")


def test_npz_with_damaged_contents(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=X)
    content = path.read_bytes()
    for start in range(40, len(content) - 200, 50):
        path.write_bytes(content[:start] + bytes([byte ^ 0x5A for byte in content[start : start + 20]]) + content[start + 20 :])
        refused(path, "x.npz")


def test_parquet(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    table(a=["u", "v"] * 10).to_parquet(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(path, "t.parquet is damaged or not a Parquet file")
    path.write_bytes(content[:4] + bytes(200) + content[204:])
    refused(path, "t.parquet is damaged or not a Parquet file")
    pq.write_table(pa.table({"a": [[1], [2, 3]], "b": [1, 2]}), path)
    refused(path, r"t.parquet, column 'a' is nested \(list<.*>\); expected one value a row: flatten or drop it")
    pq.write_table(pa.table({"a": pa.array(np.zeros(3_000_000))}), path)
    monkeypatch.setattr(limits, "available_memory", lambda: 10_000_000)
    refused(path, "t.parquet needs about 48 MB of memory; at most 5 MB")


LONG = "x" * 100_000


def dictionary_bomb(path):
    pq.write_table(pa.table({"ok": np.arange(4000.0), "t": pa.array([LONG + str(row % 2) for row in range(4000)])}), path)


def categories_bomb(path):
    words = pa.DictionaryArray.from_arrays(pa.array(np.arange(50) % 50), pa.array([LONG + str(row) for row in range(50)]))
    pq.write_table(pa.table({"ok": np.arange(50.0), "t": words}), path, compression="none")


def prefix_bomb(path):
    table = pa.table({"ok": np.arange(4000.0), "t": pa.array([LONG + str(row) for row in range(4000)])})
    pq.write_table(table, path, use_dictionary=False, column_encoding={"t": "DELTA_BYTE_ARRAY"})


@pytest.mark.parametrize("write", [dictionary_bomb, categories_bomb, prefix_bomb])
def test_parquet_whose_texts_are_larger_than_their_codes(write, tmp_path):
    path = tmp_path / "bomb.parquet"
    write(path)
    before = pa.total_allocated_bytes()
    pa.default_memory_pool().release_unused()
    refused(path, r"bomb.parquet needs (about|at least) .* of memory; at most 5 MB \(data.max_bytes\) may be used", options={"max_bytes": 5_000_000})
    assert pa.total_allocated_bytes() - before < 50_000_000


def test_parquet_is_read_as_pandas_reads_it(tmp_path):
    path = tmp_path / "t.parquet"
    n = 150_000
    frame = pd.DataFrame(
        {
            "i": pd.array(rng().integers(0, 5, n), dtype="Int64"),
            "f": rng().standard_normal(n),
            "t.x": rng().choice(["u", "v", None], n),
            "c": pd.Categorical(rng().choice(["p", "q"], n)),
            "b": rng().choice([True, False], n),
        }
    )
    frame.to_parquet(path, row_group_size=40_000)
    pd.testing.assert_frame_equal(read_parquet(path, DataOptions()), pd.read_parquet(path))
    parts = [pa.table({"t": pa.array([f"{part}{row % 9}" for row in range(70_000)])}) for part in "ab"]
    with pq.ParquetWriter(path, parts[0].schema) as writer:
        for part in parts:
            writer.write_table(part)
    pd.testing.assert_frame_equal(read_parquet(path, DataOptions()), pd.read_parquet(path))


# CSV.

CSV = {
    "too many fields": ("a,b\n1,2\n3,4,5\n6,7\n", r"t.csv has 3 fields instead of 2 in line 3 \('3,4,5'\); fix this line, or name --data.delimiter"),
    "too few fields": ("a,b,c\n1,2,3\n4,5\n6,7,8\n", r"t.csv has 2 fields instead of 3 in line 3 \('4,5'\)"),
    "repeated names": ("a,b,a\n1,2,3\n4,5,6\n", "t.csv has the column name 'a' 2 times; expected distinct names"),
    "header only": ("a,b\n", "t.csv has no rows of data; expected lines of values below the header"),
    "blank": ("\n\n \n", "t.csv is empty; expected a CSV with a header line"),
    "one row": ("a,b\n1,2\n", "t has 1 row; expected at least 2"),
    "strings among numbers": (
        "a,b\n" + "\n".join(f"{k},{'oops' if k == 7 else k / 3}" for k in range(30)), r"column 'b' is numeric but for 'oops' in row 7 "),
    "empty column": ("a,b\n" + "\n".join(f"{k},?" for k in range(30)), "column 'b' has no values; leave it out with --data.drop b"),
    "infinite": ("a,b\n" + "\n".join(f"{k},{'inf' if k == 3 else k / 3}" for k in range(30)), "column 'b' holds infinity in row 3"),
    "all constant": ("a,b\n" + "1,u\n" * 20, "t.csv is constant: all 16 training rows are the same"),
}  # fmt: skip


@pytest.mark.parametrize("name", CSV)
def test_csv(tmp_path, name):
    text, message = CSV[name]
    path = tmp_path / "t.csv"
    path.write_text(text)
    refused(path, message)


def test_csv_marking_makes_strings_missing(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "\n".join(f"{k},{'oops' if k == 7 else k / 3}" for k in range(30)))
    marked = load_data(path, options={"missing": ("oops",)})
    assert marked.space.columns[1].missing
    with pytest.warns(ManykinWarning, match="never seen in training"):
        assert load_data(path, options={"categorical": ("b",)}).space.columns[1].kind == "categorical"


def test_binary_and_foreign_csv(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\n1,\x00\x01\x02\n")
    refused(path, "t.csv is a binary file, not a CSV")
    Pillow.fromarray(np.zeros((4, 4), "uint8")).save(tmp_path / "p.png")
    path.write_bytes((tmp_path / "p.png").read_bytes())
    refused(path, "t.csv is a binary file, not a CSV")
    path.write_bytes("name,b\nMünchen,2\nKöln,3\n".encode("latin-1"))
    refused(path, r"t.csv is not UTF-8 text \(byte 0xfc at position 8\); convert it")
    path.write_bytes(b"a,b\n" + b"1,2\n" * 40_000 + b"3,\xff\xfe\n")
    refused(path, r"t.csv cannot be read as CSV \(.*UTF8.*\)|t.csv is not UTF-8")


def test_huge_fields_and_open_quotes(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n3," + "x" * (40 << 20) + "\n")
    refused(path, "t.csv has a field of more than 16 MB or an unclosed quote")
    path.write_text('a,b\n1,"2\n' + "3,4\n" * 100)
    refused(path, r"t.csv has an unclosed quote, which swallows all lines from '2")


def test_a_csv_of_ten_gigabytes_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "large.csv"
    with path.open("wb") as file:
        file.write(b"a,b\n1,2\n")
        file.truncate(10_000_000_000)
    monkeypatch.setattr(limits, "available_memory", lambda: 16_000_000_000)
    genuine = builtins.open
    monkeypatch.setattr(
        builtins, "open", lambda *arguments, **options: pytest.fail("read") if arguments[0] == path else genuine(*arguments, **options)
    )
    refused(path, r"large.csv needs about 60 GB of memory; at most 8 GB .* may be used. Convert it to Parquet, or its numbers to NPY")


# Pictures.


def folder(tmp_path, *sizes):
    for index, size in enumerate(sizes):
        Pillow.fromarray(rng().integers(0, 256, size).astype("uint8")).save(tmp_path / f"{index}.png")
    return tmp_path


def test_mixed_pictures(tmp_path):
    folder(tmp_path, (5, 6), (5, 6), (6, 5))
    refused(tmp_path, r"pictures are of mixed sizes: 0.png is 5x6, 2.png is 6x5 \(height x width\); make them equal, or resize with --data.size 5,6")
    folder(tmp_path, (5, 6), (5, 6, 3), (5, 6))
    refused(tmp_path, "pictures are of mixed kinds: 0.png is grey, 1.png is rgb; choose one with --data.mode rgb or grey")
    assert load_data(tmp_path, options={"mode": "rgb", "val": 0.0, "test": 0.0}).space.size == (3, 5, 6)


def test_corrupt_pictures(tmp_path):
    folder(tmp_path, (50, 60), (50, 60), (50, 60))
    content = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(content[: len(content) // 2])
    refused(tmp_path, r"1.png is corrupt .*image file is truncated.*; remove it or write it again")
    (tmp_path / "1.png").write_bytes(b"this is no picture")
    refused(tmp_path, r"1.png is corrupt or not a picture")
    (tmp_path / "1.png").write_bytes(b"")
    refused(tmp_path, "1.png is empty; expected a picture")
    (tmp_path / "1.png").write_bytes(content[:30] + b"\xff" * 40 + content[70:])
    refused(tmp_path, r"1.png is corrupt")


def test_decompression_bomb_is_refused_before_decoding(tmp_path, monkeypatch):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    monkeypatch.setattr(Pillow, "open", lambda path: pytest.fail("the bomb was opened"))
    refused(tmp_path, r"bomb.png has 60000 x 60000 pixels; at most 50000000 \(data.max_pixels\) are decoded")


def test_pictures_beyond_memory(tmp_path, monkeypatch):
    folder(tmp_path, (50, 60), (50, 60))
    monkeypatch.setattr(limits, "available_memory", lambda: 8000)
    refused(tmp_path, "needs about 6 kB of memory; at most 4 kB .* Resize with --data.size")


def test_one_picture(tmp_path):
    refused(folder(tmp_path, (5, 6)), "has 1 row; expected at least 2")


# Texts.


def test_texts(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes(b"\xff\xfe\x00a")
    refused(path, r"t.txt is not UTF-8 text \(byte 0xff at position 0\); convert it")
    path.write_bytes(b"abc\x00def")
    refused(path, "t.txt is a binary file")
    path.write_text(" \n")
    refused(path, "t.txt is empty; expected text")
    path.write_text("short")
    refused(path, r"t has 5 characters; expected at least two blocks of 64 to train on \(data.length\)")
    path.write_text("a" * 5000)
    refused(path, "t.txt is constant: all 62 training rows")
