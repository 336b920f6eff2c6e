"""``manykin demo``: the main job."""

import shlex
from pathlib import Path

import click

from manykin.cli.compare import show_comparison
from manykin.cli.options import duration, free_folder
from manykin.cli.output import Output, common, seconds

DATA = "digits"


@click.command("demo")
@click.option("--out", type=click.Path(path_type=Path), help="The folder of the comparison; runs/demo by default.")
@click.option("--max-time", metavar="TIME", callback=duration, default="180s", show_default=True, help="Training time of all models together.")
@click.option("--metrics", default="standard", show_default=True, help="quick, standard, full, or names of metrics with commas between them.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything.")
@click.option("--force", is_flag=True, help="Replace the comparison in --out.")
@common
def command(output: Output, out: Path | None, max_time: float, metrics: str, seed: int, force: bool) -> None:
    """Fit every model that takes pictures to 1,797 real handwritten digits, compare them, and write one report."""
    from manykin.comparison import compare
    from manykin.report import write_report

    folder = out or free_folder("demo")
    models, iterative = choose_models()
    share = round(max_time / max(1, iterative), 3)
    asked = ["--max-time", f"{share:.3f}", "--metrics", metrics, "--seed", str(seed), "--out", str(folder)]
    output.settings.folder, output.settings.resume = folder, shlex.join(["manykin", "compare", *models, "--data", DATA, *asked, "--resume"])
    output.note(f"fitting {len(models)} models to {DATA}, up to {seconds(share)} each: {', '.join(models)}")
    result = compare(models, DATA, max_time=share, metrics=metrics, out=folder, seed=seed, force=force, progress=output.note)
    if not (output.settings.json or output.settings.quiet):
        show_comparison(output, result)
        output.line(f"runs: {folder}")
    report = write_report(folder).resolve()
    output.result({"models": result.to_json(), "folder": str(folder), "report": str(report)}, lambda: output.line(f"report: {report.as_uri()}"))


def choose_models() -> tuple[list[str], int]:
    """Every model of the table that takes the digits, and how many of them learn by gradients: those share the time, the others need little."""
    from manykin.contract import Gradient
    from manykin.data import load_data
    from manykin.models import names
    from manykin.models.catalogue import instance, supports

    space = load_data(DATA).space
    models = [name for name in names() if supports(name, space)]
    iterative = [name for name in models if any(isinstance(phase, Gradient) for phase in instance(name, space).phases())]
    return models, len(iterative)
