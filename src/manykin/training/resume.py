"""Going on with a run: what must be the same, and what is taken from the folder."""

from collections.abc import Mapping
from typing import Any

from manykin.contract import GenerativeModel
from manykin.data.dataset import Dataset
from manykin.errors import CheckpointMismatch
from manykin.training.options import TrainOptions
from manykin.training.runfolder import RunFolder

FREE = ("log_every", "sample_every", "keep_checkpoints", "device")
"""Options that a resumed run may change, because no weight depends on them."""


def resumed_options(run: RunFolder, model: GenerativeModel, data: Dataset, options: TrainOptions, seed: int) -> TrainOptions:
    """The options of the run that is in the folder, after checking that the call means the same run.

    Raises:
        CheckpointMismatch: naming the key that differs.
    """
    config = run.read_config()
    run.check_model(model, config)
    if config.get("seed") != seed:
        raise CheckpointMismatch(f"{run.path} was begun with seed {config.get('seed')}, now {seed}; give the same seed, or another --out.")
    before, now = config.get("data", {}).get("sha256"), data.provenance.get("sha256")
    if before is not None and now is not None and before != now:
        raise CheckpointMismatch(f"{run.path} was begun on other data (key 'data.sha256' differs); give the same data, or another --out.")
    stored = TrainOptions.from_json(config["training"])
    _compare(run, stored.to_json(), options.to_json(), config.get("note_max_time"))
    return stored.replace({key: value for key in FREE if (value := getattr(options, key)) is not None})


def _compare(run: RunFolder, stored: Mapping[str, Any], wanted: Mapping[str, Any], limit: float | None) -> None:
    """``limit``: the ``max_time`` that has been turned into ``max_steps``, and is None among the stored options since."""
    for key, value in wanted.items():
        before = limit if key == "max_time" and limit is not None else stored[key]
        if key in FREE or value is None or value == before:
            continue
        # Beside a time limit max_steps is a cap: the number that was fixed respects every cap that is not below it.
        if key == "max_steps" and limit is not None and wanted["max_time"] is not None and before is not None and value >= before:
            continue
        raise CheckpointMismatch(
            f"{run.path} was begun with train.{key} = {before!r}, now {value!r}; leave it as it was, or give another --out for a new run."
        )
