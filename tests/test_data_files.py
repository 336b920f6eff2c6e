"""Files, folders and named sets: splits, labels, provenance, saving and coming back."""

import errno
import hashlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image as Pillow
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from manykin.data import Dataset, Form, Rows, data_sets, load_data, load_rows, names, save
from manykin.errors import InvalidInput
from manykin.spaces import Image, Labels, Table, Vector


def rng():
    return np.random.default_rng(0)


def pictures(n, *shape):
    return rng().integers(0, 256, (n, *shape)).astype("uint8")


# Named sets.


def test_digits_are_scikit_learns_own_split():
    data = load_data("digits", condition="label")
    digits = load_digits()
    x_train, x_test, y_train, y_test = train_test_split(digits.images, digits.target, test_size=0.2, random_state=0)
    assert data.space == Image((1, 8, 8), 17)
    assert data.condition == Labels(10)
    assert data.val is None
    assert (len(data.train), len(data.test)) == (1437, 360)
    np.testing.assert_array_equal(data.train.all().x[:, 0].numpy(), x_train)
    np.testing.assert_array_equal(data.test.all().condition.numpy(), y_test)
    np.testing.assert_array_equal(data.form.decode(data.test.all().x, data.space), x_test)
    assert data.train.all().condition.tolist() == y_train.tolist()
    assert load_data("digits").condition is None
    assert load_data("digits", seed=7).provenance == load_data("digits").provenance


def test_listing_is_cheap():
    code = "import sys, manykin.data as d; d.names(); d.data_sets(); d.DataOptions; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "pandas", "PIL", "scipy", "sklearn", "pyarrow"} & set(loaded)
    assert names()[:3] == ["digits", "mnist", "fashion-mnist"]


def test_importing_the_loader_needs_no_data_library():
    code = "import sys, manykin.data.load, manykin.data.forms, manykin.data.toys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pandas", "PIL", "scipy", "sklearn", "pyarrow"} & set(loaded)


def tiny_mnist(folder, name):
    (folder / name).mkdir()
    arrays = {"x_train": pictures(20, 28, 28), "y_train": np.arange(20) % 10, "x_test": pictures(10, 28, 28), "y_test": np.arange(10)}
    np.savez(folder / name / f"{name}.npz", **arrays)


def test_sets_in_the_folders_of_manykin_data(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MANYKIN_DATA", str(tmp_path))
    assert not {info.name: info for info in data_sets()}["fashion-mnist"].available
    tiny_mnist(tmp_path, "fashion_mnist")
    tiny_mnist(tmp_path, "mnist")
    info = {info.name: info.to_json() for info in data_sets()}
    assert info["mnist"] == {"name": "mnist", "kind": "pictures", "shape": [1, 28, 28], "n": 70_000, "available": True}
    assert info["fashion-mnist"]["available"]
    data = load_data("fashion-mnist", condition=True)
    assert (len(data.train), len(data.test), data.condition) == (20, 10, Labels(10))
    assert data.provenance["file"] == "fashion_mnist.npz"
    assert str(tmp_path) not in str(data.provenance)


def test_a_set_that_is_not_at_hand_says_which_file_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("MANYKIN_DATA", raising=False)
    with pytest.raises(
        InvalidInput, match=r"Put fashion-mnist/fashion-mnist.npz \(arrays x_train, y_train, x_test, y_test\) into a folder named by MANYK"
    ):
        load_data("fashion-mnist")


def test_download_is_checked_by_its_hash_and_kept(tmp_path, monkeypatch):
    from manykin.data import named

    tiny_mnist(tmp_path, "mnist")
    source = tmp_path / "mnist" / "mnist.npz"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MANYKIN_DATA", raising=False)
    monkeypatch.setitem(named._HOMES, "mnist", (source.as_uri(), "0" * 64))
    with pytest.raises(InvalidInput, match="instead of 000000000000"):
        load_data("mnist")
    assert not (tmp_path / "cache").exists()
    monkeypatch.setitem(named._HOMES, "mnist", (source.as_uri(), hashlib.sha256(source.read_bytes()).hexdigest()))
    assert len(load_data("mnist").train) == 20
    source.unlink()
    assert len(load_data("mnist").test) == 10
    monkeypatch.setitem(named._HOMES, "mnist", ((tmp_path / "gone.npz").as_uri(), "0" * 64))
    (tmp_path / "cache" / "manykin" / "mnist" / "mnist.npz").unlink()
    with pytest.raises(InvalidInput, match="mnist is not at hand and could not be downloaded"):
        load_data("mnist")


def test_fewer_rows_of_a_named_set():
    data = load_data("digits", condition=True, options={"max_rows": 100})
    assert (len(data.train), len(data.test)) == (100, 360)
    assert data.provenance["rows"] == {"train": 100, "test": 360}
    assert data.provenance["lossy"] == ["a random 100 of 1437 training rows, seed 0"]


def test_a_dataset_is_returned_as_it_is():
    data = load_data("box")
    assert load_data(data) is data


# NPY and NPZ.


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
def test_npy_is_memory_mapped(tmp_path, dtype):
    path = tmp_path / "x.npy"
    x = rng().standard_normal((1000, 3)).astype(dtype) if dtype != "uint8" else pictures(1000, 4, 5)
    np.save(path, x)
    data = load_data(path)
    rows = np.concatenate([part.index.numpy() for part in (data.train, data.val, data.test)])
    assert sorted(rows) == list(range(1000))
    assert [len(part) for part in (data.train, data.val, data.test)] == [800, 100, 100]
    assert (np.diff(data.train.index) > 0).all()
    np.testing.assert_array_equal(data.form.decode(data.test.all().x, data.space), x[data.test.index])
    base = data.train.x
    before = float(base.reshape(-1)[0])
    base.reshape(-1)[0] += 1
    assert float(np.load(path).reshape(-1)[0]) == before, "the file is never written"


def test_a_large_npy_is_not_read_into_memory(tmp_path):
    path = tmp_path / "large.npy"
    shape = (500_000, 40)
    out = np.lib.format.open_memmap(path, mode="w+", dtype="float32", shape=shape)
    for start in range(0, shape[0], 100_000):
        out[start : start + 100_000] = rng().standard_normal((100_000, shape[1]))
    out.flush()
    del out
    code = f"""
import resource, torch
from manykin.data import load_data
load_data(torch.randn(10, 2))
def anonymous():
    return next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('RssAnon')) // 1024
before = anonymous()
data = load_data({str(path)!r})
batch = data.train.batch(torch.arange(0, len(data.train), 1000))
assert len(data.train) == 400_000 and batch.x.shape == (400, 40)
print(anonymous() - before)
"""
    used = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert used < 40, f"{used} MB for a file of 80 MB"


def test_npz_by_its_keys(tmp_path):
    x, y = rng().standard_normal((30, 2)), np.arange(30) % 3
    np.savez(tmp_path / "own.npz", x_train=x[:20], y_train=y[:20], x_test=x[20:], y_test=y[20:])
    data = load_data(tmp_path / "own.npz", condition="label")
    assert (len(data.train), data.val, len(data.test), data.condition) == (20, None, 10, Labels(3))
    np.savez(tmp_path / "three.npz", train=y[:20, None], valid=y[20:25, None], test=y[25:, None])
    three = load_data(tmp_path / "three.npz")
    assert (len(three.train), len(three.val), len(three.test), three.space) == (20, 5, 5, Vector(1, levels=3))
    np.savez(tmp_path / "whole.npz", X=x, y=y)
    whole = load_data(tmp_path / "whole.npz", condition=True)
    assert (len(whole.train), len(whole.val), len(whole.test)) == (24, 3, 3)
    np.savez(tmp_path / "one.npz", anything=x)
    assert load_data(tmp_path / "one.npz").space == Vector(2)
    np.savez(tmp_path / "two.npz", first=x, second=x)
    assert len(load_data(tmp_path / "two.npz", options={"array": "second"}).train) == 24
    with pytest.raises(InvalidInput, match=r"holds first \(30, 2\), second \(30, 2\); expected x_train"):
        load_data(tmp_path / "two.npz")
    with pytest.raises(InvalidInput, match="has no array 'secnd'. Did you mean 'second'"):
        load_data(tmp_path / "two.npz", options={"array": "secnd"})


# CSV.


def write(path, text):
    path.write_text(text)
    return path


def test_csv_types_and_missing_markers(tmp_path):
    lines = ["age, job,code,paid,score,when"]
    lines += [f"{20 + i % 8}, {'clerk' if i % 2 else '?'},0{i % 10}1,{'true' if i % 3 else 'false'},{i / 3!r},x{i % 2}" for i in range(40)]
    lines[5] = lines[5].replace("24", "NaN", 1)
    data = load_data(write(tmp_path / "t.csv", "\n".join(lines) + "\n\n"))
    columns = {column.name: column for column in data.space.columns}
    assert columns["age"].kind == "integer"
    assert columns["age"].missing
    assert columns["job"].categories == ("clerk",)
    assert columns["job"].missing
    assert columns["code"].kind == "categorical", "leading zeros are no numbers"
    assert columns["paid"].categories == (False, True)
    assert columns["score"].kind == "real"
    back = data.form.decode(data.train.all().x, data.space)
    assert dict(back.dtypes.astype(str)) == {"age": "Int64", "job": "str", "code": "str", "paid": "bool", "score": "float64", "when": "str"}


def test_csv_dates(tmp_path):
    days = pd.date_range("2024-01-01", periods=40).strftime("%Y-%m-%d")
    lines = ["day,a"] + [f"{day if k != 4 else '?'},{k / 7}" for k, day in enumerate(days)]
    data = load_data(write(tmp_path / "t.csv", "\n".join(lines)))
    day = data.space.columns[0]
    assert (day.kind, day.step, day.missing) == ("real", 86_400.0, True)
    assert day.dtype.startswith("datetime64")
    back = save(data.test.all().x, data.space, data.form, tmp_path / "u.csv").read_text()
    assert [line.split(",")[0] for line in back.splitlines()[1:]] == ["" if k == 4 else days[k] for k in data.test.index.tolist()]


@pytest.mark.parametrize("mark", [";", "\t", "|", ","])
def test_csv_delimiters(tmp_path, mark):
    path = write(tmp_path / "t.csv", "\n".join([mark.join(["a", "b"])] + [mark.join([str(i), str(i * 0.37)]) for i in range(20)]))
    assert [column.name for column in load_data(path).space.columns] == ["a", "b"]


def test_csv_without_header_and_with_quotes(tmp_path):
    rows = "\n".join(f'{i},"a, b {i % 2}"' for i in range(20))
    bare = load_data(write(tmp_path / "t.csv", rows))
    assert [column.name for column in bare.space.columns] == ["x0", "x1"]
    assert len(bare.train) + len(bare.val) + len(bare.test) == 20
    assert bare.space.columns[1].categories == ("a, b 0", "a, b 1")
    forced = load_data(write(tmp_path / "u.csv", "1,2\n" + "\n".join(f"{i},{i * 0.37}" for i in range(20))), options={"header": True})
    assert [column.name for column in forced.space.columns] == ["1", "2"]


def test_csv_condition_and_load_rows(tmp_path):
    table = pd.DataFrame({"a": rng().standard_normal(50), "b": rng().choice(["u", "v"], 50), "y": rng().choice(["n", "p"], 50)})
    table.to_csv(tmp_path / "t.csv", index=False)
    data = load_data(tmp_path / "t.csv", condition="y")
    assert data.condition == Labels(2, ("n", "p"))
    again = load_rows(tmp_path / "t.csv", data.space, data.form, condition_space=data.condition, condition="y")
    assert len(again) == 50
    assert torch.equal(again.select(data.test.index).all().x, data.test.all().x)
    assert torch.equal(again.select(data.test.index).all().condition, data.test.all().condition)
    plain = load_data(table[["a", "b"]])
    assert len(load_rows(tmp_path / "t.csv", plain.space, plain.form)) == 50
    with pytest.raises(InvalidInput, match="the condition is missing"):
        load_rows(tmp_path / "t.csv", data.space, data.form, condition_space=data.condition)
    digits = load_data("digits", condition=True)
    assert len(load_rows("digits", digits.space, digits.form, condition_space=digits.condition)) == 360
    with pytest.raises(InvalidInput, match="box is Vector"):
        load_rows("box", digits.space, digits.form)


# Splits and provenance.


def test_splits_are_fixed_disjoint_and_recorded(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, rng().standard_normal((57, 2)))
    data, again = load_data(path), load_data(path, seed=5)
    assert torch.equal(data.test.index, again.test.index)
    other = load_data(path, options={"split_seed": 1, "test": 0.2, "val": 0.0})
    assert (len(other.train), other.val, len(other.test)) == (46, None, 11)
    assert data.provenance["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert data.provenance["file"] == "x.npy"
    assert data.provenance["split"] == "random: 0.1 validation, 0.1 test, seed 0"
    assert data.provenance["rows"] == {"train": 45, "val": 6, "test": 6}
    few = load_data(path, options={"max_rows": 20})
    assert sum(few.provenance["rows"].values()) == 20
    assert few.provenance["lossy"] == ["a random 20 of 57 rows, seed 0"]


def test_provenance_of_memory_follows_the_content():
    x = rng().standard_normal((20, 2))
    assert load_data(x).provenance["sha256"] == load_data(x.copy()).provenance["sha256"] != load_data(x + 1).provenance["sha256"]
    assert load_data(x).provenance["sha256"] != load_data(x.astype("float32")).provenance["sha256"]
    table = pd.DataFrame({"a": x[:, 0]})
    assert load_data(table).provenance["sha256"] != load_data(table * 2).provenance["sha256"]


# Folders of pictures.


def folder_of(path, arrays):
    path.mkdir(parents=True, exist_ok=True)
    for index, array in enumerate(arrays):
        Pillow.fromarray(array).save(path / f"{index:03}.png")
    return path


def all_pictures(data):
    order = torch.cat([part.index for part in (data.train, data.val, data.test) if part is not None]).argsort()
    return np.concatenate([data.form.decode(part.all().x, data.space) for part in (data.train, data.val, data.test)])[order]


@pytest.mark.parametrize(
    "arrays, space",
    [
        (pictures(10, 5, 7), Image((1, 5, 7))),
        (pictures(10, 5, 7, 3), Image((3, 5, 7))),
        (pictures(10, 5, 7, 4), Image((4, 5, 7))),
        (rng().integers(0, 65_536, (10, 5, 7)).astype("uint16"), Image((1, 5, 7), 65_536)),
        (rng().integers(0, 2, (10, 5, 7)).astype(bool), Image((1, 5, 7), 2)),
    ],
    ids=["grey", "rgb", "rgba", "16-bit", "black and white"],
)
def test_folder_of_pictures(tmp_path, arrays, space):
    data = load_data(folder_of(tmp_path / "p", arrays))
    assert data.space == space
    np.testing.assert_array_equal(all_pictures(data), arrays.astype("uint8") if arrays.dtype == bool else arrays)
    assert data.provenance["lossy"] == []
    data.space.validate(data.train.all().x)


def test_palette_pictures(tmp_path):
    arrays = rng().choice([0, 128, 255], (10, 5, 7, 3)).astype("uint8")
    (tmp_path / "p").mkdir()
    for index, array in enumerate(arrays):
        Pillow.fromarray(array).quantize(64).save(tmp_path / "p" / f"{index}.png")
    data = load_data(tmp_path / "p")
    assert data.space == Image((3, 5, 7))
    np.testing.assert_array_equal(all_pictures(data), arrays)


def test_labels_from_folders_and_csv_and_splits_from_folders(tmp_path):
    for label in ("cat", "dog"):
        folder_of(tmp_path / "labelled" / label, pictures(10, 4, 4) + (label == "dog"))
    data = load_data(tmp_path / "labelled", condition=True)
    assert data.condition == Labels(2, ("cat", "dog"))
    assert load_data(tmp_path / "labelled").condition is None
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            folder_of(tmp_path / "split" / split / label, pictures(6, 4, 4))
    own = load_data(tmp_path / "split", condition="label")
    assert (len(own.train), own.val, len(own.test), own.condition) == (12, None, 12, Labels(2, ("cat", "dog")))
    plain = folder_of(tmp_path / "plain", pictures(10, 4, 4))
    lines = "\n".join(f"{index:03}.png,{'even' if index % 2 == 0 else 'odd'}" for index in range(10))
    labels = write(tmp_path / "labels.csv", f"file,label\n{lines}\n")
    listed = load_data(plain, condition="label", options={"labels": str(labels)})
    assert listed.condition == Labels(2, ("even", "odd"))
    first = listed.train.index[0] % 2
    assert int(listed.train.slice(0, 1).condition[0]) == int(first)
    short = write(tmp_path / "short.csv", "file,label\n000.png,a\n001.png,b\n")
    with pytest.raises(InvalidInput, match=r"short.csv has no label for 002.png"):
        load_data(plain, condition=True, options={"labels": str(short)})


def test_resizing_and_converting_are_recorded_as_lossy(tmp_path):
    folder = folder_of(tmp_path / "p", pictures(10, 8, 8, 3))
    Pillow.fromarray(pictures(1, 16, 16)[0]).save(folder / "big.png")
    data = load_data(folder, options={"size": (4, 6), "mode": "grey"})
    assert data.space == Image((1, 4, 6))
    assert data.provenance["lossy"] == ["converted from rgb to grey", "resized from mixed sizes to 4x6 (Lanczos, antialiased)"]


# Saving.


def test_saving_and_reading_back(tmp_path):
    x = rng().standard_normal((20, 2))
    data = load_data(x)
    value = data.train.all().x
    np.testing.assert_array_equal(np.load(save(value, data.space, data.form, tmp_path / "x.npy")), x)
    np.testing.assert_array_equal(np.load(save(value, data.space, data.form, tmp_path / "x.npz"))["x"], x)
    np.testing.assert_array_equal(pd.read_csv(save(x, data.space, data.form, tmp_path / "x.csv")).to_numpy(), x)
    tensor = load_data(torch.randn(5, 2))
    assert np.load(save(tensor.train.all().x, tensor.space, tensor.form, tmp_path / "t.npy")).dtype == np.float32
    with pytest.raises(InvalidInput, match="exists, and nothing is overwritten"):
        save(x, data.space, data.form, tmp_path / "x.npy")
    with pytest.raises(InvalidInput, match=r"cannot hold samples of Vector\(2\); expected .npy, .npz, .csv, .parquet"):
        save(x, data.space, data.form, tmp_path / "x.png")
    with pytest.raises(InvalidInput, match="ends in '.xls'"):
        save(x, data.space, data.form, tmp_path / "x.xls")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.npy", "x.csv", "x.npy", "x.npz"], "no parts are left"


def test_saving_tables(tmp_path):
    table = pd.DataFrame({"a": np.round(rng().standard_normal(300), 1), "b": rng().choice(["x", "y"], 300), "c": rng().integers(0, 5, 300)})
    data = load_data(table)
    value = data.train.all().x
    pd.testing.assert_frame_equal(pd.read_csv(save(value, data.space, data.form, tmp_path / "t.csv")), table)
    pd.testing.assert_frame_equal(pd.read_parquet(save(value, data.space, data.form, tmp_path / "t.parquet")), table)
    value[0, 0] = 3 * 0.1
    assert save(value, data.space, data.form, tmp_path / "u.csv").read_text().splitlines()[1].startswith("0.3,")


def test_saving_pictures(tmp_path):
    data = load_data(pictures(30, 5, 6, 3))
    value = data.train.all().x
    save(value, data.space, data.form, tmp_path / "folder")
    again = load_data(tmp_path / "folder")
    np.testing.assert_array_equal(all_pictures(again), pictures(30, 5, 6, 3))
    sheet = np.asarray(Pillow.open(save(value, data.space, data.form, tmp_path / "sheet.png")))
    zoom, gap = 64 // 6, 1
    assert sheet.shape == ((5 * (5 + gap) + gap) * zoom, (6 * (6 + gap) + gap) * zoom, 3)
    np.testing.assert_array_equal(sheet[::zoom, ::zoom][1:6, 1:7], pictures(30, 5, 6, 3)[0])
    digits = load_data("digits")
    save(digits.test.slice(0, 4).x, digits.space, digits.form, tmp_path / "digits")
    brightest = np.asarray(Pillow.open(tmp_path / "digits" / "00000.png")).max()
    assert brightest == round(int(digits.test.slice(0, 1).x.max()) * 255 / 16)
    with pytest.raises(InvalidInput, match="exists"):
        save(value, data.space, data.form, tmp_path / "folder")


def test_saving_strings_and_records(tmp_path):
    data = load_data(["ab", "c", "ca"])
    value = data.train.all().x
    assert save(value, data.space, data.form, tmp_path / "s.txt").read_text() == "ab\nc\nca\n"
    assert save(["a\nb", "c"], data.space, data.form, tmp_path / "m.txt").read_text() == "a\nb\n----\nc\n"
    assert save(value, data.space, data.form, tmp_path / "s.json").read_text().startswith('[\n "ab"')
    record = load_data({"a": rng().standard_normal((5, 2)), "b": np.arange(5)})
    held = np.load(save(record.train.all().x, record.space, record.form, tmp_path / "r.npz"))
    assert sorted(held.files) == ["a", "b"]
    assert held["b"].tolist() == [0, 1, 2, 3, 4]


def test_form_json_refuses_unknown_keys():
    with pytest.raises(InvalidInput, match="form has the unknown key 'kin'. Did you mean 'kind'"):
        Form.from_json({"kin": "array"})
    with pytest.raises(InvalidInput, match="form kind 'arry' is not known"):
        Form.from_json({"kind": "arry"})


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    data = load_data(rng().standard_normal((20, 2)))

    def full(path, array, allow_pickle):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(InvalidInput, match=r"x.npy cannot be written: No space left on device. Choose another folder, or free some space"):
        save(data.train.all().x, data.space, data.form, tmp_path / "x.npy")
    assert list(tmp_path.iterdir()) == []


# Real data, slow.


@pytest.mark.slow
def test_real_sets():
    import os

    root = os.environ["MANYKIN_DATA"]
    mnist = load_data("mnist", condition=True)
    assert (len(mnist.train), len(mnist.test), mnist.space) == (60_000, 10_000, Image((1, 28, 28)))
    fashion = load_data("fashion-mnist")
    assert (len(fashion.train), len(fashion.test)) == (60_000, 10_000)
    adult = load_data(f"{root}/adult/adult.data", condition="Y")
    assert adult.condition.classes == 2
    assert adult.space.missing
    assert sum(adult.provenance["rows"].values()) + sum(adult.provenance["outside"].values()) == 32_561
    nltcs = load_data(f"{root}/debd_binary/nltcs.npz")
    assert (nltcs.space, len(nltcs.train), len(nltcs.val), len(nltcs.test)) == (Vector(16, levels=2), 16_181, 2157, 3236)
    text = load_data(f"{root}/tinyshakespeare/input.txt")
    assert text.space.vocab == 65
    assert isinstance(load_data(f"{root}/credit_default/credit_default.csv").space, Table)
    assert isinstance(text.train, Rows)
    assert isinstance(text, Dataset)
