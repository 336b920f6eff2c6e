"""Comparing models: one split, one budget, one row a model, each in a process of its own, and the folder that holds them."""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from manykin.api import fit, save_value
from manykin.comparison.children import able, read_result, run_child
from manykin.comparison.folder import DATA, LOGS, REAL, workplace
from manykin.comparison.outcome import judged
from manykin.comparison.rows import FILE, Comparison, Row, Run
from manykin.comparison.setup import FILE as SETUP
from manykin.comparison.setup import Candidate, Setup, candidates, check_same, read_setup, seeds_of
from manykin.comparison.splits import HOLDOUT, hold_out, with_test
from manykin.comparison.summary import Outcome, Ruler, row_of, run_of
from manykin.comparison.table import counted
from manykin.comparison.trust import check_data, check_features, first_line, whole, wrong
from manykin.config import Config
from manykin.contract import GenerativeModel
from manykin.data import load_data
from manykin.data.dataset import Dataset
from manykin.data.prepared import hash_of, read_dataset, write_dataset
from manykin.errors import CheckpointMismatch, InvalidInput
from manykin.training.files import replace_file, writing
from manykin.training.signals import Interrupted

__all__ = ["FILE", "HOLDOUT", "REAL", "SETUP", "Comparison", "Row", "Run", "compare", "hold_out", "with_test"]

Model = str | Config | type[GenerativeModel]


def compare(
    models: Sequence[Model] | None = None,
    data: Any = None,
    *,
    condition: Any = None,
    preset: str = "default",
    data_options: Mapping[str, Any] | None = None,
    max_time: float | None = None,
    max_steps: int | None = None,
    metrics: str | Sequence[str] = "standard",
    n: int | None = None,
    features: str = "own",
    target: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    seeds: int | Sequence[int] | None = None,
    resume: bool = False,
    force: bool = False,
    like: str | Path | None = None,
    progress: bool | Callable[[str], None] = False,
) -> Comparison:
    """Fit several models on one split with one budget, each in a process of its own, one after the other, and evaluate them alike.

    A model that cannot take the data, diverges, or dies with its process (out of memory, a crash) becomes a row with its error. A class that is in
    no table, such as one of ``__main__``, is fitted in this process, and a warning in its row says so. Equal calls with ``max_steps`` give equal
    numbers; for a budget of time ``like`` repeats the steps that it became.

    Args:
        models: names, configs or classes.
        data: as in :func:`fit`; data without a test split of its own give a tenth of their rows for it.
        condition: as in :func:`fit`.
        preset: the preset of every model.
        data_options: how to read the data.
        max_time: seconds of training a model.
        max_steps: steps a model.
        metrics: ``quick``, ``standard``, ``full``, or names of metrics; as in :func:`evaluate`, like the next three.
        n: samples to draw for metrics of samples.
        features: what looks at pictures: ``own``, ``none``, a path, or the id of a model on the hub. A path or id that ``like`` would repeat has to
            be given again: it is loaded and run, and a folder can come from anybody.
        target: the column that usefulness predicts.
        out: a folder to write; None keeps nothing but the result.
        seed: of everything: the split, each fit, each evaluation.
        seeds: how many fits of each model, from ``seed`` on, or a list of seeds; the split has the first, each fit and its evaluation their own.
        resume: go on with the comparison in ``out``: finished runs are kept, a begun one goes on from its checkpoint, failed ones are tried again.
        force: replace the comparison in ``out``.
        like: the folder of another comparison to repeat: its models, data, options and seeds, with the steps that it took in the place of time.
        progress: print a line a model on standard error, or call this with it.

    Raises:
        InvalidInput: for data, numbers or a folder that cannot be used.
        CheckpointMismatch: where ``resume`` meets another comparison; where the folder of ``like`` or ``resume`` is damaged or was changed.
    """
    if resume and (force or out is None):
        raise InvalidInput("resume goes on with the comparison in out; give out, and no force.")
    if like is not None:
        if models is not None or data is not None:
            raise InvalidInput("like repeats a comparison with its own models and data; leave models and data out.")
        setup, prepared = _repeated(Path(like).expanduser(), features)
    elif data is None:
        raise InvalidInput("compare was given no data; expected a data set's name, a path, an array, tensor, DataFrame or list of strings.")
    else:
        chosen = seeds_of(seed, seeds)
        setup = Setup(
            candidates(models or ()), {}, chosen, preset, max_time, max_steps, _listed(metrics), n, features, target, torch.get_num_threads()
        ).check()
        prepared = _prepared(data, condition, data_options, chosen[0])
    tell = progress if callable(progress) else _print if progress else _keep_quiet
    with workplace(out, force=force, resume=resume) as folder:
        setup = _settle(setup, prepared, folder, resume)
        del prepared  # From here on the data are read from the file: the runs need the memory.
        return _Race(setup, folder, out is not None, resume, tell).run()


def _repeated(like: Path, features: str) -> tuple[Setup, Dataset]:
    """The setup and data of a comparison that is to be repeated, with the steps that each of its runs took; nothing in the folder is trusted."""
    setup = Setup.from_json(read_setup(like)).check()
    check_features(like, setup.features, features)
    try:
        rows = json.loads((like / FILE).read_text())
        steps = {str(run["folder"]): run["max_steps"] for row in rows for run in row["runs"] if run.get("max_steps") is not None}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointMismatch(f"{like / FILE} is missing or damaged ({type(error).__name__}); expected a comparison that has been run.") from error
    odd = next((each for each in steps.values() if not whole(each, 1)), None)
    if odd is not None:
        raise wrong(like / FILE, "max_steps", odd, "an integer of at least 1")
    check_data(like / DATA, setup.data["sha256"])
    return dataclasses.replace(setup, steps=steps), read_dataset(like / DATA)


def _prepared(data: Any, condition: Any, options: Mapping[str, Any] | None, seed: int) -> Dataset:
    loaded = load_data(data, condition=condition, options=options, seed=seed)
    if options:
        loaded = dataclasses.replace(loaded, provenance={**loaded.provenance, "options": dict(options)})
    return with_test(loaded, seed)


def _settle(setup: Setup, data: Dataset, folder: Path, resume: bool) -> Setup:
    """Write what was asked and the data, once; with ``resume`` make sure that both are the same as before."""
    begun = resume and (folder / SETUP).is_file()
    sha256 = hash_of(data) if begun else write_dataset(data, folder / DATA)
    setup = dataclasses.replace(setup, data={"name": data.name, "sha256": sha256})
    if begun:
        setup = dataclasses.replace(setup, threads=check_same(folder, setup))
        if (folder / DATA).is_file():
            check_data(folder / DATA, sha256)
        else:
            write_dataset(data, folder / DATA)
    if not (begun and (folder / REAL).is_file()):
        assert data.test is not None
        save_value(data.test.sample(1024, setup.seed).x, folder / REAL)
    setup.write(folder)
    return setup


class _Race:
    """A comparison under way."""

    def __init__(self, setup: Setup, folder: Path, kept: bool, resume: bool, tell: Callable[[str], None]) -> None:
        self.setup, self.folder, self.resume, self.tell = setup, folder, resume, tell
        self.place = folder if kept else None
        self.data = read_dataset(folder / DATA)
        self.ruler = Ruler(self.data, setup.seed)

    def run(self) -> Comparison:
        """Every model, one after the other; ``compare.json`` is written after each."""
        rows: list[Row] = []
        for candidate in self.setup.models:
            try:
                rows.append(self._row(candidate))
            except KeyboardInterrupt as stop:
                kept = "nothing is kept, since no folder (out) was given" if self.place is None else f"--resume goes on in {self.folder}"
                raise Interrupted(f"Interrupted at {candidate.label}, with {len(rows)} of {len(self.setup.models)} models done; {kept}.") from stop
            if self.place is not None:
                self._comparison(rows).write()
            self.tell(counted(rows[-1]))
        return self._comparison(rows)

    def _comparison(self, rows: Sequence[Row]) -> Comparison:
        return Comparison(self.data.name, tuple(rows), self.place)

    def _row(self, candidate: Candidate) -> Row:
        runs: list[Run] = []
        outcomes: list[Outcome | None] = []
        for seed in self.setup.seeds:
            name = self.setup.folder(candidate.label, seed)
            outcome, error = self._outcome(candidate, name, seed)
            outcomes.append(outcome)
            runs.append(run_of(name, seed, outcome, error))
        notes = []
        if not (candidate.alone and able()):
            why = "Python does not know its own path" if candidate.alone else "its class is in no table (add it by an entry point)"
            notes = [f"it was fitted in the process of the comparison, since {why}: a crash would have ended all."]
        row = row_of(candidate.label, self.data.name, runs, outcomes, notes, candidate.family)
        first = next((run for run in runs if run.error is None), None)
        return row if first is None else dataclasses.replace(row, curve=self.ruler.curve(self.folder / first.folder))

    def _outcome(self, candidate: Candidate, name: str, seed: int) -> tuple[Outcome | None, str | None]:
        """What one run printed, and why it printed nothing; a run that was finished before is not run again."""
        result = self.folder / LOGS / f"{name}.json"
        before = read_result(result) if self.resume else None
        if before is not None:
            return before, None
        if not (candidate.alone and able()):
            return self._here(candidate, name, seed, result)
        error = run_child(self._arguments(candidate, name, seed), result, self.folder / LOGS / f"{name}.txt", self.setup.threads)
        outcome = None if error is not None else read_result(result)
        return outcome, error

    def _budget(self, name: str) -> dict[str, Any]:
        """The steps that are repeated, else the budget that was asked for."""
        steps = (self.setup.steps or {}).get(name)
        return {"max_steps": steps, "max_time": None} if steps is not None else {"max_steps": self.setup.max_steps, "max_time": self.setup.max_time}

    def _arguments(self, candidate: Candidate, name: str, seed: int) -> list[str]:
        setup, budget = self.setup, self._budget(name)
        words = ["fit", str(candidate.name), str(self.folder / DATA), "--out", str(self.folder / name), "--resume", "--json"]
        words += ["--seed", str(seed), "--preset", setup.preset, "--evaluate", ",".join(setup.metrics), f"--evaluate.seed={seed}"]
        words += [f"--evaluate.{key}={value}" for key in ("n", "features", "target") if (value := getattr(setup, key)) is not None]
        if candidate.options is not None:
            file = self.folder / LOGS / f"{candidate.label}-options.json"
            with writing(file):
                replace_file(file, json.dumps({"model": dict(candidate.options)}).encode())
            words += ["--options", str(file)]
        words += [] if budget["max_steps"] is None else ["--max-steps", str(budget["max_steps"])]
        return words + ([] if budget["max_time"] is None else ["--max-time", f"{budget['max_time']:.9f}"])

    def _here(self, candidate: Candidate, name: str, seed: int, result: Path) -> tuple[Outcome | None, str | None]:
        """The same as a process of its own would do, for a class that none could build."""
        setup, run = self.setup, self.folder / name
        budget = self._budget(name)
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(setup.threads)
            fitted = fit(
                candidate.given, self.data, preset=setup.preset, max_time=budget["max_time"], max_steps=budget["max_steps"], seed=seed, out=run,
                resume=True,
            )  # fmt: skip
            outcome = judged(fitted, setup.metrics, n=setup.n, features=setup.features, target=setup.target, seed=setup.seed)[1]
            with writing(result):
                replace_file(result, json.dumps(outcome, allow_nan=False).encode())
        except Exception as error:
            return None, first_line(error)
        finally:
            torch.set_num_threads(threads)
        return outcome, None


def _listed(metrics: str | Iterable[str]) -> tuple[str, ...]:
    return tuple(part.strip() for part in metrics.split(",")) if isinstance(metrics, str) else tuple(metrics)


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _keep_quiet(line: str) -> None:
    return None
