"""Binarisation: grey pictures as chances of ink, and the binary pictures drawn from them.

Three tasks of different difficulty share one name in the literature, hence three rules: ``dynamic`` draws the training pictures anew at every step
(Salakhutdinov and Murray, On the quantitative analysis of deep belief networks, 2008), ``static`` draws them once, ``threshold`` draws nothing. The
validation and test pictures are drawn once, by a seed that does not depend on the fit's, so that likelihoods of different fits are comparable.
"""

import dataclasses

import torch
from torch import Tensor

from manykin.data.dataset import Chances, Dataset, Rows
from manykin.data.forms import Form
from manykin.data.options import DataOptions
from manykin.errors import InvalidInput
from manykin.random import generator
from manykin.spaces import Image

CHUNK = 8192
"""Pictures that are drawn at a time."""

RULES = {
    "dynamic": "binarised: each pixel is drawn with its level as the chance, training pictures anew at every step, all others once",
    "static": "binarised: each pixel is drawn once with its level as the chance",
    "threshold": "binarised: a pixel is 1 above half of the highest level",
}


def binarised(data: Dataset, options: DataOptions) -> Dataset:
    """The data set with pictures of two levels, by the rule ``options.binarise``; as it is where there is none.

    Raises:
        InvalidInput: for data that are no pictures with more than two ordered levels, or pictures that hold nothing but 0 and 1.
    """
    rule = options.binarise
    if rule is None:
        return data
    space = data.space
    if not isinstance(space, Image) or space.levels is None or not space.ordinal or space.levels <= 2:
        raise InvalidInput(f"data.binarise = {rule!r} does not fit {data.name}, which is {space}; expected pictures of more than 2 ordered levels.")
    assert isinstance(data.train.x, Tensor)
    if int(data.train.x.max()) <= 1:
        raise InvalidInput(f"data.binarise = {rule!r} does not fit {data.name}, whose pictures are binary already; expected data.levels = 2 instead.")
    top, drawn = space.levels - 1, dict[int, Tensor]()

    def of(rows: Rows | None, split: str) -> Rows | None:
        if rows is None:
            return None
        assert isinstance(rows.x, Tensor)
        key = id(rows.x)
        if key not in drawn:
            drawn[key] = _binary(rows.x, top, rule, generator(options.split_seed, "binarise", split))
        again = Chances(rows.x, top) if rule == "dynamic" and split == "train" else None
        return dataclasses.replace(rows, x=drawn[key], chances=again)

    provenance = {**data.provenance, "lossy": [*data.provenance.get("lossy", []), RULES[rule]]}
    train = of(data.train, "train")
    assert train is not None
    form = Form(data.form.kind, "uint8", {key: value for key, value in (data.form.options or {}).items() if key == "channels"})
    return dataclasses.replace(
        data, space=Image(space.size, 2), train=train, val=of(data.val, "val"), test=of(data.test, "test"), form=form, provenance=provenance
    )  # fmt: skip


def _binary(levels: Tensor, top: int, rule: str, source: torch.Generator) -> Tensor:
    if rule == "threshold":
        return (2 * levels.int() > top).to(torch.uint8)
    return torch.cat([Chances(part, top).draw(source) for part in torch.split(levels, CHUNK)])
