"""A parameter set for each class: rows sorted by label, results put back in order."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from manykin.errors import InvalidInput
from manykin.spaces import Labels, Space, Value, columns_of

Rows = Tensor | slice


def groups_of(condition: Space | None) -> int:
    """How many parameter sets a model holds: one a class, or a single one."""
    return condition.classes if isinstance(condition, Labels) else 1


def by_group(condition: Value | None, groups: int) -> Iterator[tuple[int, Rows]]:
    """``(group, rows)`` for every group that occurs; the whole batch where there is no condition."""
    if condition is None:
        yield 0, slice(None)
        return
    assert isinstance(condition, Tensor)
    for group in range(groups):
        rows = (condition == group).nonzero().flatten()
        if len(rows):
            yield group, rows


def per_group(z: Tensor, condition: Value | None, groups: int, function: Callable[[Tensor, int], Tensor], block: int) -> Tensor:
    """``function(rows of one group, group)`` over blocks of rows, so that memory is constant; differentiable, results in the order of z."""
    order: list[Rows] = []
    parts: list[Tensor] = []
    for group, rows in by_group(condition, groups):
        order.append(rows)
        parts.extend(function(part, group) for part in torch.split(z[rows], block))
    joined = parts[0] if len(parts) == 1 else torch.cat(parts)
    if condition is None:
        return joined
    return joined[torch.argsort(torch.cat([rows for rows in order if isinstance(rows, Tensor)]))]


def spread_of(z: Tensor, space: Space) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column of the starting sample, shapes (d,).

    Raises:
        InvalidInput: for a single row, or a column that never changes, since a density is unbounded there.
    """
    if len(z) < 2:
        raise InvalidInput(f"the training data has {len(z)} row; expected at least 2: one row says nothing about spread.")
    mean = z.mean(dim=0)
    std = (z - mean).square().mean(dim=0).sqrt()
    constant = std <= 1e-12 * mean.abs()
    if constant.any():
        index = int(constant.nonzero()[0])
        name = columns_of(space)[index].name
        raise InvalidInput(
            f"column {name!r} is constant (always {float(mean[index]):g}): its density is unbounded; drop it, or declare it an integer or a category."
        )
    return mean, std
