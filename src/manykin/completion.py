"""Completing what a user gives in part: rows with unknown entries as tensors and masks, texts by their beginnings."""

from typing import Any, cast

import torch
from torch import Tensor

from manykin.contract import Continues, GenerativeModel, Sampler
from manykin.data.forms import Form
from manykin.data.strings import check_strings, decode_strings, stream_codes
from manykin.errors import InvalidInput, Unsupported
from manykin.random import fresh_seed, hash_seed
from manykin.spaces import Image, Space, Table, Tokens, Value, Vector, take

__all__ = ["complete_texts", "partial_rows"]

SYMBOLS = 200
"""Symbols that a stream goes on for where nobody says how many."""


def partial_rows(x: Any, known: Any, form: Form, space: Space, name: str) -> tuple[Tensor, Tensor]:
    """Data with unknown entries as valid tensors, and the mask of what is known.

    Raises:
        InvalidInput: for a mask of another shape or dtype, or known values outside the space.
        Unsupported: for a space that has no such form.
    """
    if not isinstance(space, (Vector, Table, Image)):
        raise Unsupported(f"{name} completes {space} through its model only: fitted.model.complete(x, known).")
    values = cast(Tensor, form.tensor(x, space, lenient=True))
    mask = ~torch.isnan(values) if values.is_floating_point() else torch.ones_like(values, dtype=torch.bool)
    if known is not None:
        mask = mask & _mask(known, form, space, len(values))
    origin = torch.tensor([column.origin for column in space.columns], dtype=torch.float64).view(space.shape)
    values = torch.where(mask, values, origin.to(values.dtype))
    return cast(Tensor, space.validate(values)), mask


def _mask(known: Any, form: Form, space: Space, n: int) -> Tensor:
    """The user's boolean mask in the layout of the space's tensors.

    Raises:
        InvalidInput: for a mask of another shape or dtype.
    """
    mask = torch.as_tensor(known.to_numpy() if hasattr(known, "to_numpy") else known)
    if mask.dtype != torch.bool:
        raise InvalidInput(f"known has dtype {str(mask.dtype).removeprefix('torch.')}; expected booleans: True where an entry is known.")
    if isinstance(space, Image) and mask.dim() == 4 and form.option("channels") == "last":
        mask = mask.permute(0, 3, 1, 2)
    elif isinstance(space, Image) and mask.dim() == 3:
        mask = mask[:, None].expand(-1, space.size[0], -1, -1)
    elif isinstance(space, Vector) and mask.dim() == 1 and space.size == 1:
        mask = mask[:, None]
    if mask.shape != (n, *space.shape):
        raise InvalidInput(f"known has shape {tuple(mask.shape)}; expected the shape of x, {(n, *space.shape)}.")
    return mask


@torch.no_grad()
def complete_texts(
    model: GenerativeModel, prompts: Any, n: int | None, condition: Value | None, form: Form, name: str, *, seed: int | None, sampler: Sampler | None
) -> Any:  # fmt: skip
    """Each prompt with what the model writes after it: a string for a string, a list for a list.

    Args:
        model: a model of ``Tokens`` that continues.
        prompts: a string, or a list of strings; empty ones begin a text.
        n: symbols (characters or bytes) to write; None: 200 of a stream, as many as fit of a string, which also ends by itself.
        condition: as validated tensors, one or as many as prompts; None for an unconditional model.
        form: how the user's texts map to codes.
        name: of the model, for messages.
        seed: for repeatable draws.
        sampler: one of the model's samplers.

    Raises:
        InvalidInput: for a symbol that no training text held, naming it; n < 1; a prompt that is longer than a string of the model.
        Unsupported: for a model that does not continue.
    """
    space = model.space
    assert isinstance(space, Tokens)
    if not isinstance(model, Continues):
        raise Unsupported(f"{name} cannot continue texts; `manykin models` lists the models that can (continue).")
    texts = check_strings(prompts, "the prompt")
    if not texts:
        raise InvalidInput("there is no prompt (an empty list); expected a string or a list of strings.")
    codes = [_codes(text, row, space, form) for row, text in enumerate(texts)]
    conditions = model.check_condition(condition, len(texts))
    root = fresh_seed() if seed is None else seed
    written = [""] * len(texts)
    for length in sorted({len(each) for each in codes}):
        rows = torch.tensor([row for row, each in enumerate(codes) if len(each) == length])
        prompt = torch.stack([codes[row] for row in rows.tolist()])
        steps = n if n is not None else SYMBOLS if space.end is None else max(space.length - 1 - length, 1)
        c = None if conditions is None else take(conditions, rows)
        more = model.continuation(prompt, steps, c, seed=root if length == len(codes[0]) else hash_seed(root, length), sampler=sampler)
        for row, text in zip(rows.tolist(), decode_strings(torch.cat([prompt, more.cpu()], dim=1), space, form), strict=True):
            written[row] = text
    return written[0] if isinstance(prompts, str) else written


def _codes(text: str, row: int, space: Tokens, form: Form) -> Tensor:
    unit = form.option("unit", "characters")
    codes = torch.as_tensor(stream_codes(text, space, unit).copy())
    bad = (codes < 0).nonzero()
    if len(bad):
        raise InvalidInput(f"prompt {row} holds {text[int(bad[0])]!r}, which no training text held; expected the known {unit} only.")
    if space.end is not None and len(codes) > space.length - 1:
        raise InvalidInput(f"prompt {row} has {len(codes)} {unit}; texts of this model have at most {space.length - 1}: give a shorter one.")
    return codes
