"""What a comparison found: one row a model, each with the runs that it rests on."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from manykin.errors import InvalidInput
from manykin.metrics import Estimate, standing
from manykin.metrics.estimate import FLOOR
from manykin.metrics.ledger import as_json
from manykin.training.files import replace_file, writing

if TYPE_CHECKING:
    import pandas as pd

FILE = "compare.json"
WORDS = {"as good": "yes", "worse": "no", "cannot tell": "cannot tell", "": ""}
"""What a flat table says of a metric: whether it is as good as that of real rows."""
COSTS = ("seconds", "steps", "parameters", "peak_memory_bytes", "sampling_seconds", "sampling_n")


@dataclass(frozen=True)
class Run:
    """One fit of one model. ``folder``: its run folder inside that of the comparison. ``max_steps``: the number of steps that its budget became."""

    folder: str
    seed: int
    seconds: float | None = None
    steps: int | None = None
    max_steps: int | None = None
    metrics: tuple[Estimate, ...] = ()
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, infinities as null."""
        return {**_plain(self), "metrics": [metric.to_json() for metric in self.metrics]}


@dataclass(frozen=True)
class Row:
    """What one model reached, or why it did not.

    With several seeds each metric is the mean over them, and its standard error combines that over the test rows with the spread between seeds.
    ``seconds`` of training and ``steps`` are means; ``peak_memory_bytes`` is the largest, measured in the model's own process;
    ``sampling_seconds``: the time of ``sampling_n`` samples. ``curve``: quality against time, the energy distance to held-out rows of the samples
    that training left on its way, of the first seed.
    """

    model: str
    data: str
    metrics: tuple[Estimate, ...] = ()
    density: str = "none"
    seconds: float | None = None
    steps: int | None = None
    parameters: int | None = None
    peak_memory_bytes: int | None = None
    sampling_seconds: float | None = None
    sampling_n: int | None = None
    error: str | None = None
    warnings: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    runs: tuple[Run, ...] = ()
    curve: tuple[Mapping[str, float], ...] = ()
    family: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, infinities as null."""
        return {
            **_plain(self), "metrics": [metric.to_json() for metric in self.metrics], "warnings": list(self.warnings), "seeds": list(self.seeds),
            "runs": [run.to_json() for run in self.runs], "curve": [dict(point) for point in self.curve],
        }  # fmt: skip

    def metric(self, name: str) -> Estimate | None:
        """An estimate by name; None where the model has none."""
        return next((metric for metric in self.metrics if metric.name == name), None)

    def standing(self, metric: Estimate) -> Literal["as good", "worse", "cannot tell", ""]:
        """How one of its metrics stands beside its noise floor: :func:`manykin.metrics.standing`."""
        return standing(metric, self.metric(metric.name + FLOOR))


@dataclass(frozen=True)
class Comparison:
    """Rows in the order in which the models were given. ``folder`` is None where nothing was kept."""

    data: str
    rows: tuple[Row, ...]
    folder: Path | None = field(default=None, compare=False)

    def to_json(self) -> list[dict[str, Any]]:
        """A list with an object for each model: its row, and under ``claims`` what its likelihood may claim beside the others.

        ``claims``: ``group``, a sentence that says with which models it may be ranked at all (one quantity, strength and unit; models without a
        comparable likelihood are a group by their energy distance); ``rank_in_group``, from 1, null for what cannot be ranked (impossible claims,
        values that are not finite, unnormalised ones); ``tied_with_best``, whether it is behind the best of its group but not distinguishable from
        it by two standard errors; ``flags``, why its claims are impossible. A model that failed is in no group.
        """
        claims = claims_of(self.rows)
        return [{**row.to_json(), "claims": claims[row.model]} for row in self.rows]

    def to_frame(self) -> "pd.DataFrame":
        """A flat table: a line for each metric of each model, with what the model cost; a model without any has one line with its error.

        ``as_good_as_real``: yes, no, ``cannot tell`` where the metric at this size tells nothing, empty without a noise floor. Values may be ranked
        only among lines of one metric, quantity, strength, unit, sampler and ``computed_on``. ``flags``: why a model's claims are impossible.
        """
        import pandas as pd

        lines, claims = [], claims_of(self.rows)
        for row in self.rows:
            costs = {key: getattr(row, key) for key in COSTS} | {
                "seeds": len(row.seeds),
                "flags": "; ".join(claims[row.model]["flags"]),
                "error": row.error,
            }
            head = {"model": row.model, "data": row.data}
            for metric in row.metrics:
                plain = metric.to_json()
                value = {"metric": metric.name, "value": metric.value, "stderr": metric.stderr}
                more = {key: plain.get(key) for key in ("unit", "strength", "n", "note")} | {"quantity": metric.quantity, "sampler": metric.sampler}
                lines.append({**head, **value, **more, "computed_on": metric.data, "as_good_as_real": WORDS[row.standing(metric)], **costs})
            if not row.metrics:
                lines.append({**head, **costs})
        what = ["model", "data", "metric", "value", "stderr", "unit", "strength", "n", "note", "quantity", "sampler", "computed_on"]
        return pd.DataFrame(lines, columns=[*what, "as_good_as_real", *COSTS, "seeds", "flags", "error"])

    def row(self, model: str) -> Row:
        """The row of a model by name.

        Raises:
            InvalidInput: for a model that was not compared.
        """
        found = next((row for row in self.rows if row.model == model), None)
        if found is None:
            raise InvalidInput(f"{model!r} is not in this comparison; expected one of {', '.join(row.model for row in self.rows)}.")
        return found

    def write(self) -> Path:
        """Write ``compare.json`` into the folder.

        Raises:
            TrainingFailed: where the disk refuses.
        """
        assert self.folder is not None
        path = self.folder / FILE
        with writing(path):
            replace_file(path, json.dumps(self.to_json(), indent=2, allow_nan=False).encode())
        return path

    def __str__(self) -> str:
        from manykin.comparison.table import as_text

        return as_text(self)


def claims_of(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """What the likelihood of each model may claim beside the others, by model: see :meth:`Comparison.to_json`."""
    ledger = as_json([row for row in rows if row.error is None])
    claims: dict[str, dict[str, Any]] = {
        row.model: {"group": None, "rank_in_group": None, "tied_with_best": False, "flags": ledger["flags"].get(row.model, [])} for row in rows
    }
    for group in ledger["groups"]:
        mixed = not group["quantity"] and group["remarks"]
        ranked = not mixed and group["strength"] != "unnormalised"
        for rank, entry in enumerate(group["entries"], 1):
            known = ranked and entry["value"] is not None and not entry["flags"]
            told = {"group": group["sentence"], "rank_in_group": rank if known else None}
            claims[entry["model"]] |= told | {"tied_with_best": known and entry["mark"].startswith("not distinguishable")}
    return claims


def revived(data: Mapping[str, Any]) -> Estimate:
    """An estimate from JSON, where null stands for whatever is not finite: the note of a likelihood tells an infinite loss from none at all."""
    found = Estimate.from_json(data)
    note = found.note
    infinite = data.get("value") is None and ("outside the support" in note or note.endswith("the value is inf"))
    return dataclasses.replace(found, value=math.inf) if infinite else found


def _plain(value: Any) -> dict[str, Any]:
    return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
