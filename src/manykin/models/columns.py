"""Rows of mixed columns as network inputs, and network outputs as the distribution of a row.

Each column gets the likelihood of its kind; given the network's output all columns are independent, so that
``log p(x | output) = sum over columns``. A column that may be missing has one more output, the log-odds of being missing, and its value counts
only where it is there: the sum over all rows, missing entries included, is one.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from manykin.errors import InvalidInput
from manykin.models.likelihoods import Bernoulli, Categorical, DiscretisedGaussian, DiscretisedLogistic, Gaussian, Head, Squared, Values, whole
from manykin.spaces import Column

Likelihood = Literal["auto", "categorical", "bernoulli", "discretised-logistic", "gaussian", "squared", "error"]
"""How columns with a grid are modelled; continuous columns are Gaussian and categories categorical whatever it says.

Two are for models without a likelihood: ``squared`` measures all ordered columns, continuous ones too, by the square of their standardised error,
``error`` all but those of two values.
"""

CATEGORICAL_LIMIT = 10
"""``auto`` models ordered columns of more values than this by a discretised logistic."""

SMALL = 2**16
"""Whole numbers up to this lose nothing in single precision when they are standardised."""


class ColumnLikelihood(nn.Module):
    """Input features of rows (n, d), and the log-likelihood, draws and mode of rows given outputs (..., n, outputs).

    Args:
        columns: the columns of the rows.
        likelihood: for columns with a grid; ``auto`` takes bernoulli for two values, categorical for up to 10 and for categories,
            discretised-logistic otherwise. With ``squared`` and ``error``, log_prob is minus an error and no likelihood.
        shared: whether a location-scale likelihood has one learned scale a column rather than one for each example.

    Attributes:
        inputs: width of :meth:`features`.
        outputs: width of the network's output.
        unscaled: whether log-masses are log-densities as they are, all columns being whole numbers or categories; or there is no likelihood.
        plain: whether all columns are whole numbers or categories from 0.
        small: whether all are whole numbers or categories, few and small, so that single precision holds them.

    Raises:
        InvalidInput: where a column cannot have the likelihood asked for.
    """

    centre: Tensor
    scale: Tensor
    origin: Tensor
    step: Tensor
    continuous: Tensor

    def __init__(self, columns: tuple[Column, ...], likelihood: Likelihood = "auto", shared: bool = False) -> None:
        super().__init__()
        self.columns = columns
        groups: dict[tuple[str, int | None, bool], list[int]] = {}
        for index, column in enumerate(columns):
            kind = _choose(column, likelihood)
            size = None if kind in ("gaussian", "bernoulli") else column.cardinality
            groups.setdefault((kind, size, column.grid is None), []).append(index)
        self.groups = list(groups.values())
        self.heads = nn.ModuleList(_head(kind, cardinality, len(group), shared) for (kind, cardinality, _), group in groups.items())
        self.nominal = [(index, len(column.categories)) for index, column in enumerate(columns) if column.kind == "categorical"]
        self.ordered = [index for index, column in enumerate(columns) if column.kind != "categorical"]
        self.holes = [index for index, column in enumerate(columns) if column.missing]
        self.inputs = len(self.ordered) + sum(size for _, size in self.nominal) + len(self.holes)
        self.outputs = sum(head.width * len(group) for head, group in self.parts()) + len(self.holes)
        whole_numbers = all(column.grid == 1 for column in columns)
        self.unscaled = whole_numbers or likelihood in ("squared", "error")
        self.small = whole_numbers and all(column.cardinality is not None and abs(column.origin) + column.cardinality <= SMALL for column in columns)
        self.plain = whole_numbers and all(column.origin == 0 for column in columns)
        continuous = torch.tensor([column.grid is None for column in columns])
        self.register_buffer("centre", torch.tensor([column.origin for column in columns], dtype=torch.float64))
        self.register_buffer("scale", torch.ones(len(columns), dtype=torch.float64))
        self.register_buffer("origin", torch.tensor([column.origin for column in columns], dtype=torch.float64), persistent=False)
        self.register_buffer("step", torch.tensor([column.grid or 1.0 for column in columns], dtype=torch.float64), persistent=False)
        self.register_buffer("continuous", continuous, persistent=False)

    def parts(self) -> Iterator[tuple[Head, list[int]]]:
        """Each group's head and its columns."""
        for head, group in zip(self.heads, self.groups, strict=True):
            assert isinstance(head, Head)
            yield head, group

    def codes(self, x: Tensor) -> Tensor:
        """k = (x - origin) / step, rounded; 0 where missing. Meaningless in continuous columns."""
        k = whole(x, self.origin.to(x.dtype), self.step.to(x.dtype))
        return torch.where(torch.isnan(k), 0.0, k) if self.holes else k

    def features(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """What a network should see of rows (n, d): standardised numbers, one-hot categories, marks of missing values; shape (n, inputs).

        Where all columns are categories of one size, as the tiles of a picture are, the columns of a row lie one after the other.
        """
        if not self.ordered and not self.holes and len({size for _, size in self.nominal}) == 1:
            hot = nn.functional.one_hot(self.codes(x).long(), self.nominal[0][1])
            return hot.flatten(1).to(dtype)
        if self.small:
            # Nothing cancels among small whole numbers, so that one operation in single precision is enough.
            t = torch.addcmul((-self.centre / self.scale).to(x.dtype), x, self.scale.reciprocal().to(x.dtype))
        else:
            t = (x - self.centre.to(x.dtype)) / self.scale.to(x.dtype)
        if len(self.ordered) == len(self.columns) and not self.holes:
            return t.to(dtype)
        parts = [(torch.where(torch.isnan(x), 0.0, t) if self.holes else t)[:, self.ordered]]
        for index, size in self.nominal:
            hot = nn.functional.one_hot(self.codes(x)[:, index].long(), size)
            parts.append(hot * ~torch.isnan(x[:, index : index + 1]))
        if self.holes:
            parts.append(torch.isnan(x[:, self.holes]))
        return torch.cat([part.to(dtype) for part in parts], dim=1)

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        """log p(x | outputs) in the units of x, shape (..., n) for outputs (..., n, width) and rows (n, d); in single precision or better."""
        if outputs.dtype == torch.bfloat16:
            outputs = outputs.float()
        observed = ~torch.isnan(x) if self.holes else None
        known = x if observed is None else torch.where(observed, x, self.centre.to(x.dtype))
        total = torch.zeros((), dtype=outputs.dtype, device=outputs.device)
        centre, scale, origin, step = (each.to(x.dtype) for each in (self.centre, self.scale, self.origin, self.step))
        for head, group, parameters in self._split(outputs):
            pick = slice(None) if len(group) == len(self.columns) else group
            values = Values(known[:, pick], centre[pick], scale[pick], origin[pick], step[pick], outputs.dtype, self.plain)
            terms = head.log_prob(parameters, values)
            total = total + (terms if observed is None else torch.where(observed[:, pick], terms, 0.0)).sum(dim=-1)
        if self.unscaled and observed is None:
            return total
        # A density per unit of t becomes one per unit of x; a mass on a cell is spread over the cell's width.
        log_cell = torch.zeros_like(self.scale) if self.unscaled else torch.where(self.continuous, self.scale, self.step).log()
        if observed is None:
            return total - log_cell.sum().to(outputs.dtype)
        missing = outputs[..., -len(self.holes) :]
        odds = torch.where(observed[:, self.holes], -missing, missing)
        return total - (log_cell * observed).sum(dim=-1).to(outputs.dtype) + nn.functional.logsigmoid(odds).sum(dim=-1)

    def sample(self, outputs: Tensor) -> Tensor:
        """A draw for each row of outputs (n, width): valid rows (n, d) in float64, NaN where missing."""
        x = self._rows(outputs, draw=True)
        if self.holes:
            odds = outputs[:, -len(self.holes) :]
            x[:, self.holes] = torch.where(torch.rand_like(odds) < odds.sigmoid(), float("nan"), x[:, self.holes])
        return x

    def mode(self, outputs: Tensor) -> Tensor:
        """The most probable value of every column: valid rows (n, d) in float64, NaN where missing is likelier than not."""
        x = self._rows(outputs, draw=False)
        if self.holes:
            x[:, self.holes] = torch.where(outputs[:, -len(self.holes) :] > 0, float("nan"), x[:, self.holes])
        return x

    def start(self, x: Tensor) -> Tensor:
        """Take centre and scale from training rows (n, d); return outputs (width,) that describe the columns' marginals.

        Raises:
            InvalidInput: where a continuous column is constant, since a density is unbounded there.
        """
        observed = ~torch.isnan(x)
        count = observed.sum(dim=0).clamp(min=1)
        mean = torch.where(observed, x, 0.0).sum(dim=0) / count
        std = (torch.where(observed, x - mean, 0.0).square().sum(dim=0) / count).sqrt()
        for index, column in enumerate(self.columns):
            if column.grid is None and observed[:, index].any() and float(std[index]) <= 1e-12 * (1 + abs(float(mean[index]))):
                raise InvalidInput(
                    f"column {column.name!r} is constant (always {float(mean[index]):g}): its density is unbounded; "
                    "drop it, or declare it an integer or a category."
                )
        # An almost constant column of few values would see its rare values magnified: an eighth of the range is the least scale.
        least = torch.tensor([(column.cardinality - 1) * float(column.grid or 1) / 8 if column.cardinality else 0.0 for column in self.columns])
        std = torch.maximum(std, least.to(std))
        self.centre.copy_(mean)
        self.scale.copy_(torch.where(std > 0, std, self.step))
        codes = self.codes(x)
        codes = torch.where(observed, codes, 0.0)
        parts = [head.start(codes[:, group], observed[:, group]).flatten() for head, group in self.parts()]
        holes = (~observed[:, self.holes]).sum(dim=0)
        parts.append(((holes + 0.5) / (len(x) - holes + 0.5)).log())
        return torch.cat(parts)

    def _split(self, outputs: Tensor) -> Iterator[tuple[Head, list[int], Tensor]]:
        """Each group's head, its columns, and its parameters (..., n, g, width)."""
        begin = 0
        for head, group in self.parts():
            size = head.width * len(group)
            yield head, group, outputs[..., begin : begin + size].reshape(*outputs.shape[:-1], len(group), head.width)
            begin += size

    def _rows(self, outputs: Tensor, draw: bool) -> Tensor:
        x = torch.empty(len(outputs), len(self.columns), dtype=torch.float64, device=outputs.device)
        for head, group, parameters in self._split(outputs):
            values = (head.sample(parameters) if draw else head.mode(parameters)).double()
            if not head.coded:
                values = values * self.scale[group] + self.centre[group]
                values = self._snap(values, group)
            else:
                values = self.origin[group] + values * self.step[group]
            x[:, group] = values
        return x

    def _snap(self, values: Tensor, group: list[int]) -> Tensor:
        """The nearest point of each column's grid, within its ends; continuous columns unchanged."""
        if bool(self.continuous[group[0]]):
            return values
        origin, step = self.origin[group], self.step[group]
        codes = ((values - origin) / step).round()
        cardinality = self.columns[group[0]].cardinality
        return origin + (codes if cardinality is None else codes.clamp(0, cardinality - 1)) * step


def _choose(column: Column, likelihood: Likelihood) -> str:
    """The likelihood of one column."""
    size = column.cardinality
    if likelihood in ("squared", "error") and column.kind != "categorical":
        return "bernoulli" if likelihood == "error" and size == 2 else "squared"
    if column.grid is None:
        return "gaussian"
    if likelihood == "auto" or (column.kind == "categorical" and likelihood not in ("categorical", "bernoulli")):
        if size == 2:
            return "bernoulli"
        return "categorical" if size is not None and (size <= CATEGORICAL_LIMIT or column.kind == "categorical") else "discretised-logistic"
    if likelihood == "bernoulli" and size != 2:
        values = size or "infinitely many"
        raise InvalidInput(f"model.likelihood = 'bernoulli' does not fit column {column.name!r} of {values} values; expected 2: choose auto.")
    if likelihood == "categorical" and size is None:
        raise InvalidInput(
            f"model.likelihood = 'categorical' does not fit column {column.name!r} of infinitely many values; expected a finite list: choose auto."
        )
    return "discretised-gaussian" if likelihood == "gaussian" else likelihood


def _head(kind: str, cardinality: int | None, columns: int, shared: bool) -> Head:
    if kind == "categorical":
        assert cardinality is not None
        return Categorical(cardinality)
    if kind == "bernoulli":
        return Bernoulli()
    if kind == "squared":
        return Squared()
    if kind == "gaussian":
        return Gaussian(columns, shared)
    return (DiscretisedLogistic if kind == "discretised-logistic" else DiscretisedGaussian)(columns, shared, cardinality)
