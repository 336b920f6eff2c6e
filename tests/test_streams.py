"""One long text: which blocks training sees."""

import pytest
import torch

from manykin.data import load_data
from manykin.data.dataset import Rows
from manykin.data.prepared import read_dataset, write_dataset
from manykin.random import seed_all
from manykin.training.batches import Source

POSITIONS = torch.arange(20)


@pytest.fixture
def file(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("".join(chr(97 + (k * k // 7) % 26) for k in range(3000)))
    return text


def cut(rows: Rows, seed: int) -> torch.Tensor:
    source = Source(rows, 20, 0, torch.device("cpu"))
    seed_all(seed)
    x = source.gather(POSITIONS).x
    assert isinstance(x, torch.Tensor)
    return x


def test_a_training_step_cuts_its_blocks_anew_and_repeatably(file):
    rows = load_data(file, options={"length": 16}).train
    assert torch.equal(cut(rows, 1), cut(rows, 1))
    assert not torch.equal(cut(rows, 1), cut(rows, 2))
    assert not torch.equal(cut(rows, 1), rows.all().x[POSITIONS])


def test_each_block_is_a_stretch_of_the_text_at_most_a_block_later(file):
    rows = load_data(file, options={"length": 16}).train
    text = rows.all().x.flatten()
    stretches = text.unfold(0, 16, 1)
    offsets = set()
    for seed in range(40):
        found = cut(rows, seed)
        for position, block in zip(POSITIONS.tolist(), found, strict=True):
            near = stretches[16 * position : 16 * position + 16]
            hit = (near == block).all(dim=1).nonzero()
            assert len(hit)
            offsets.add(int(hit[0]))
    assert offsets == set(range(16))


def test_the_last_block_stays_inside_the_text():
    rows = Rows(torch.arange(24).view(6, 4), stream=True)
    for seed in range(20):
        seed_all(seed)
        x = rows.anew(torch.tensor([5]))
        assert isinstance(x, torch.Tensor)
        assert x.tolist() == [[20, 21, 22, 23]]


def test_held_out_blocks_and_separate_strings_stay_as_they_are(file, tmp_path):
    data = load_data(file, options={"length": 16})
    assert data.val is not None
    assert data.test is not None
    assert data.train.stream
    assert not data.val.stream
    assert not data.test.stream
    lines = tmp_path / "lines.txt"
    lines.write_text("ab\nabc\nb\na\ncab\n" * 10)
    assert not load_data(lines, options={"lines": True}).train.stream


def test_a_prepared_text_is_cut_anew_too(file, tmp_path):
    data = load_data(file, options={"length": 16})
    write_dataset(data, tmp_path / "prepared.safetensors")
    assert torch.equal(cut(read_dataset(tmp_path / "prepared.safetensors").train, 3), cut(data.train, 3))


def test_what_is_held_out_for_patience_is_the_end_that_training_never_sees(file):
    from manykin.training.options import TrainOptions
    from manykin.training.setup import _split

    data = load_data(file, options={"length": 16, "val": 0.0})
    whole = data.train.all().x
    train, held = _split(data, TrainOptions(patience=2), 0)
    assert held is not None
    assert torch.equal(torch.cat([train.all().x, held.all().x]), whole)
    end = train.all().x.flatten()
    for seed in range(30):
        seed_all(seed)
        block = train.anew(torch.tensor([len(train) - 1]))
        assert (end.unfold(0, 16, 1) == block).all(dim=1).any()
