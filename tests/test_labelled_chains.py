"""Labels of chains: dealt by frequency, weighed by frequency, taken up as rows want them."""

import pytest
import torch

from manykin.errors import InvalidInput
from manykin.models.energy.labelled import LabelledChains

FREQUENCIES = torch.tensor([0.9, 0.0, 0.09, 0.01], dtype=torch.float64)


def test_every_label_that_occurs_has_a_chain_and_counts_by_its_frequency():
    dealt = LabelledChains.dealt(FREQUENCIES, 50)
    assert torch.bincount(dealt.labels, minlength=4).tolist() == [43, 0, 6, 1]
    totals = torch.zeros(4, dtype=torch.float64).index_add_(0, dealt.labels, dealt.weights)
    assert torch.allclose(totals, FREQUENCIES)
    with pytest.raises(InvalidInput, match="chains = 3 are fewer chains than the 4 classes"):
        LabelledChains.dealt(FREQUENCIES, 3)


def test_rows_get_chains_of_their_label_each_once_before_any_twice():
    dealt = LabelledChains.dealt(FREQUENCIES, 50)
    wanted = torch.tensor([2, 3, 0, 1, 3, 2, 2, 2, 2, 2, 2])
    torch.manual_seed(0)
    places, first = dealt.pick(wanted)
    assert places[3] == -1
    rest = wanted != 1
    assert torch.equal(dealt.labels[places[rest]], wanted[rest])
    assert first.tolist() == [True, True, True, False, False, True, True, True, True, True, False]
    assert len(set(places[first].tolist())) == int(first.sum())
    assert not torch.equal(places, dealt.pick(wanted)[0])
