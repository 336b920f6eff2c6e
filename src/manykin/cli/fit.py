"""``manykin fit``."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manykin.cli.evaluate import EvaluateOptions, show_evaluation
from manykin.cli.options import ARGUMENTS, ConfigCommand, data_label, duration, free_folder
from manykin.cli.output import Output, common, seconds, size
from manykin.errors import InvalidInput, suggest

if TYPE_CHECKING:
    from manykin.api import Plan
    from manykin.config import Config
    from manykin.fitted import Fitted
    from manykin.metrics import Evaluation

    Judge = Callable[[Fitted], tuple[Evaluation, dict[str, Any]]]

SECTIONS = ("model", "train", "data")
"""What an options file may hold."""


class Fit(ConfigCommand):
    """``fit``, whose help knows the options of the model that is named."""

    prefixes = ("model", "train", "data", "evaluate")

    def sections(self, given: Mapping[str, Any]) -> "dict[str, type[Config]]":
        """The options of the model, of training and of reading data; none before MODEL is known."""
        name = given.get("model")
        if not isinstance(name, str):
            return {}
        from manykin.data import DataOptions
        from manykin.models import get
        from manykin.training import TrainOptions

        model = get(name)
        return {f"Options of {name}": model.config_class, "Options of training": TrainOptions, "Options of reading data": DataOptions,
                "Options of --evaluate": EvaluateOptions}  # fmt: skip


@click.command(
    "fit",
    cls=Fit,
    epilog="`manykin fit MODEL --help` also lists --model.FIELD, --train.FIELD, --data.FIELD and --evaluate.FIELD with ranges and defaults.",
)
@click.argument("model")
@click.argument("data")
@click.option("--condition", metavar="COLUMN", help="Learn p(x | label): the column of a table, or `label` for data that bring labels.")
@click.option("--preset", default="default", show_default=True, help="A named choice of options.")
@click.option("--max-steps", type=click.IntRange(1), help="Optimizer steps, or batches that a closed-form model visits.")
@click.option("--max-time", metavar="TIME", callback=duration, help="Time for training: seconds, or 60s, 5m, 1h.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of weights, batches and draws.")
@click.option("--device", help="cpu, cuda, mps or auto.")
@click.option("--precision", help="32, bf16 or auto.")
@click.option("--out", type=click.Path(path_type=Path), help="The run folder; runs/DATA-MODEL by default.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option("--force", is_flag=True, help="Replace the run in --out.")
@click.option("--options", "file", metavar="FILE", type=click.Path(path_type=Path), help='JSON: {"model": {...}, "train": {...}, "data": {...}}.')
@click.option("--evaluate", "metrics", metavar="LEVEL", help="Evaluate afterwards: quick, standard, full, or names of metrics.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and stop.")
@common
@click.pass_context
def command(
    ctx: click.Context, output: Output, model: str, data: str, condition: str | None, preset: str, max_steps: int | None, max_time: float | None,
    seed: int, device: str | None, precision: str | None, out: Path | None, resume: bool, force: bool, dry_run: bool,
    file: Path | None, metrics: str | None, fields: Mapping[str, Mapping[str, str]],
) -> None:  # fmt: skip
    """Fit MODEL to DATA: the name of a data set, a CSV, Parquet, NPY, NPZ or text file, or a folder of pictures."""
    from manykin.models import names

    if model not in names():
        raise InvalidInput(f"model {model!r} is not known.{suggest(model, names())}")
    if resume and out is None:
        raise InvalidInput("--resume needs the run to go on with: add --out RUN.")
    if resume and force:
        raise InvalidInput("--resume goes on with a run and --force replaces it; give one of them.")
    judge = _judge(metrics, fields["evaluate"], seed)
    if judge is not None:  # So has every run of a comparison.
        from manykin.comparison.children import end_with_parent

        end_with_parent()
    from manykin.api import carry_out, plan

    options = read_options_file(file)
    chosen = {section: {**options.get(section, {}), **fields[section]} for section in SECTIONS}
    decided = plan(
        model, data, condition=condition, preset=preset, options=chosen["model"], train=chosen["train"], data_options=chosen["data"],
        max_steps=max_steps, max_time=max_time, seed=seed, device=device, precision=precision,
    )  # fmt: skip
    folder = out or free_folder(f"{data_label(data)}-{model}")
    if dry_run:
        _show_plan(output, decided, folder)
        return
    output.settings.folder, output.settings.resume = folder, _resume_command(ctx.meta[ARGUMENTS], folder)
    output.note(f"fitting {model} to {decided.data.name}: {len(decided.data.train):,} examples of {decided.data.space}")
    fitted = carry_out(decided, out=folder, resume=resume, force=force, progress=output.progress)
    from manykin.data import names as data_names

    _show_run(output, fitted, folder, folder if data in data_names() else f"{folder} {data}", judge)


def read_options_file(path: Path | None) -> dict[str, dict[str, Any]]:
    """The options of a JSON file by section, exactly as they were written; none without a file.

    Raises:
        InvalidInput: for a file that cannot be read or has other sections.
    """
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(
            f"--options {str(path)!r} cannot be read ({error}); expected a JSON object with the keys {', '.join(SECTIONS)}."
        ) from error
    if not isinstance(found, dict) or any(not isinstance(values, dict) for values in found.values()):
        raise InvalidInput(f"--options {str(path)!r} holds no object of objects; expected one with the keys {', '.join(SECTIONS)}.")
    for key in found:
        if key not in SECTIONS:
            raise InvalidInput(f"--options {str(path)!r} has the key {key!r}.{suggest(key, SECTIONS)}")
    return found


def _judge(metrics: str | None, given: Mapping[str, str], seed: int) -> "Judge | None":
    """What --evaluate asks for; its options are read before anything is fitted."""
    options = EvaluateOptions.from_json(given)
    if metrics is None:
        if given:
            raise InvalidInput(f"--evaluate.{next(iter(given))} needs --evaluate LEVEL.")
        return None
    from manykin.metrics import chosen

    chosen(metrics)

    def judge(fitted: "Fitted") -> "tuple[Evaluation, dict[str, Any]]":
        from manykin.comparison.outcome import judged

        used = seed if options.seed is None else options.seed
        return judged(fitted, metrics, n=options.n, k=options.k, features=options.features, target=options.target, seed=used)

    return judge


def _show_run(output: Output, fitted: "Fitted", folder: Path, evaluated: object, judge: "Judge | None") -> None:
    value = {"run": str(folder), "model": fitted.name, "data": str(fitted.provenance.get("name", "")), **fitted.result}
    evaluation, more = (None, {}) if judge is None else judge(fitted)

    def show() -> None:
        if evaluation is not None:
            show_evaluation(output, evaluation)
        result = fitted.result
        steps = f"{result['steps']:,} step{'' if result['steps'] == 1 else 's'}"
        output.line(f"{fitted.name}: {steps} in {seconds(result['seconds'])}, stopped by {result['stopped']}; run folder: {folder}")
        output.line(f"next: manykin evaluate {evaluated} · manykin sample {folder} · manykin report {folder}")

    output.result(value | more, show)


def _show_plan(output: Output, decided: "Plan", folder: Path) -> None:
    parameters = sum(p.numel() for p in decided.model.parameters())
    memory = estimate_memory(decided)
    value = {**decided.config(), "parameters": parameters, "memory_bytes": memory, "out": str(folder)}

    def show() -> None:
        transform = " → ".join(value["transform"]) or "none"
        condition = str(decided.data.condition or "nothing")
        splits = {"training": decided.data.train, "validation": decided.data.val, "test": decided.data.test}
        facts = {
            "model": f"{decided.name} (preset {decided.preset})", "data": decided.data.name, "space": str(decided.data.space),
            "condition": condition, "examples": ", ".join(f"{len(rows):,} {name}" for name, rows in splits.items() if rows is not None),
            "transform": transform, "parameters": f"{parameters:,} trainable",
            "memory": f"about {size(memory)} (data, weights, gradients, optimizer; activations come on top)", "run folder": str(folder),
        }  # fmt: skip
        options = {f"model.{key}": each for key, each in decided.model.config.to_json().items()}
        options |= {f"train.{key}": each for key, each in decided.train.to_json().items() if each is not None}
        rows = [*facts.items(), *((key, str(each)) for key, each in options.items())]
        output.table(["", "resolved"], rows)

    output.result(value, show)


def estimate_memory(decided: "Plan") -> int:
    """Bytes that a fit needs at least: the data, and four copies of the weights (themselves, gradients, two moments), plus an average of them."""
    import torch

    def bytes_of(value: Any) -> int:
        parts = [value] if isinstance(value, torch.Tensor) else list(value.values())
        return sum(part.numel() * part.element_size() for part in parts)

    bases = {id(rows.x): rows.x for rows in (decided.data.train, decided.data.val, decided.data.test) if rows is not None}
    weights = sum(p.numel() * p.element_size() for p in decided.model.parameters())
    buffers = sum(b.numel() * b.element_size() for b in decided.model.buffers())
    return sum(bytes_of(base) for base in bases.values()) + 5 * weights + 2 * buffers


def _resume_command(args: Sequence[str], folder: Path) -> str:
    kept = [arg for arg in args if arg not in ("--resume", "--force")]
    out = [] if any(arg == "--out" or arg.startswith("--out=") for arg in kept) else ["--out", str(folder)]
    return shlex.join(["manykin", "fit", *kept, *out, "--resume"])
