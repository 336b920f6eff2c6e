"""The pictures and tables of the docs, drawn from toys and digits when the pages are built."""

from collections.abc import Callable
from pathlib import Path

import metric_tables
import numpy as np
import torch

import manykin as mk
from manykin.config import Config, options
from manykin.data import data_sets, toys
from manykin.data.catalogue import TOYS
from manykin.models import TABLE, get
from manykin.models.catalogue import catalogue
from manykin.report import pictures
from manykin.report.canvas import MODEL, REAL, new_figure, png, style
from manykin.training import TrainOptions


def draw_all(folder: Path) -> None:
    """Every picture that the pages show."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        with style(page=False):
            draw(folder / name)


def explicit(path: Path) -> None:
    """Two moons under four explicit densities, from stiff to supple."""
    models = {"box": "box", "Gaussian": "gaussian", "mixture of 10": "gaussian-mixture", "flow": "realnvp"}
    data = mk.load_data("two-moons").train.sample(800, 0).x
    figure = new_figure(12, 3.2)
    for index, (title, name) in enumerate(models.items()):
        axes = figure.add_subplot(1, len(models), index + 1)
        pictures.density_2d(mk.fit(name, "two-moons", options=_components(name, 10)).model.log_prob, data, axes)
        axes.set_title(title)
        pictures.quiet(axes)
    png(figure, path)


def implicit(path: Path) -> None:
    """Real points, and points of an adversarial model."""
    fitted = mk.fit("gan", "eight-gaussians", seed=0)
    figure = new_figure(7, 3.4)
    real = mk.load_data("eight-gaussians").train.sample(2000, 0).x
    for index, (title, points, colour) in enumerate([("data", real, REAL), ("samples of a GAN", fitted.model.sample(2000, seed=0), MODEL)]):
        axes = figure.add_subplot(1, 2, index + 1)
        pictures.scatter(axes, points, colour)
        axes.set_title(title)
        axes.set_aspect("equal")
        axes.set_xlim(-4.5, 4.5)
        axes.set_ylim(-4.5, 4.5)
        pictures.quiet(axes)
    png(figure, path)


def digits(path: Path) -> None:
    """Real digits beside those of the best model of the table with an easy sampler."""
    fitted = mk.fit("vae", "digits", seed=0)
    assert fitted.data is not None
    assert fitted.data.test is not None
    real = fitted.data.test.sample(40, 0).x
    pictures.samples_sheet(real, fitted.model.sample(40, seed=1), columns=8, rows=5, levels=17).save(path)


def maximum_likelihood(path: Path) -> None:
    """A Gaussian on its way to the data by gradient, and where the closed form is at once."""
    data = torch.distributions.MultivariateNormal(torch.tensor([3.0, 1.0]), torch.tensor([[1.0, 0.8], [0.8, 1.5]]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = data.sample((600,)).numpy()
    figure = new_figure(12, 3.2)
    shown = [(f"{steps} gradient steps", mk.fit("gaussian", x, options={"fit": "gradient"}, max_steps=steps)) for steps in (1, 50, 400)]
    for index, (title, fitted) in enumerate([*shown, ("closed form", mk.fit("gaussian", x))]):
        axes = figure.add_subplot(1, 4, index + 1)
        pictures.density_2d(fitted.model.log_prob, torch.as_tensor(x), axes, margin=0.3)
        axes.set_title(f"{title}: {fitted.log_prob(x).mean():.2f} nats")
        pictures.quiet(axes)
    png(figure, path)


def toy_sets(path: Path) -> None:
    """The two-dimensional toys with their exact densities."""
    figure = new_figure(12, 5.2)
    for index, name in enumerate(TOYS):
        axes = figure.add_subplot(2, -(-len(TOYS) // 2), index + 1)
        data = mk.load_data(name).train.sample(600, 0).x
        pictures.density_2d(toys.toy(name).log_prob, data, axes)
        axes.set_title(name)
        pictures.quiet(axes)
    png(figure, path)


def _components(name: str, k: int) -> dict[str, int]:
    return {"n_components": k} if any(info.name == "n_components" for info in options(get(name).config_class)) else {}


def readme(path: Path) -> None:
    """The picture of the README: real digits and those of three families, and a flow on two moons."""
    names = {"mixture": "mixture", "vae": "variational autoencoder", "gan": "adversarial"}
    digits = {title: mk.fit(name, "digits", seed=0).model.sample(36, seed=0) for name, title in names.items()}
    held_out = mk.load_data("digits").test
    assert held_out is not None
    figure = new_figure(12, 3.0)
    for index, (title, sheet) in enumerate({"real digits": held_out.sample(36, 0).x, **digits}.items()):
        axes = figure.add_subplot(1, 5, index + 1)
        axes.imshow(np.asarray(pictures.grid(sheet, columns=6, levels=17)))
        axes.set_title(title)
        pictures.quiet(axes)
    axes = figure.add_subplot(1, 5, 5)
    moons = mk.load_data("two-moons").train.sample(500, 0).x
    pictures.density_2d(mk.fit("realnvp", "two-moons", seed=0).model.log_prob, moons, axes)
    axes.set_title("flow")
    pictures.quiet(axes)
    png(figure, path)


PICTURES: dict[str, Callable[[Path], None]] = {
    "explicit.png": explicit, "implicit.png": implicit, "digits.png": digits, "maximum-likelihood.png": maximum_likelihood, "toys.png": toy_sets,
}  # fmt: skip


def write_tables(folder: Path) -> None:
    """The tables that are read off the code."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["| model | family | likelihood | conditional | spaces | besides sampling | source |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for entry in catalogue():
        conditional = "yes" if entry["conditional"] else "no"
        cells = [
            f"`{entry['name']}`",
            entry["family"],
            entry["density"] or "none",
            conditional,
            ", ".join(entry["spaces"]),
            ", ".join(entry["optional"]),
            entry["paper"],
        ]
        rows.append("| " + " | ".join(cells) + " |")
    (folder / "models.md").write_text("\n".join(rows) + "\n")
    data = ["| name | kind | shape | n |", "| --- | --- | --- | --- |"]
    data += [f"| `{info.name}` | {info.kind} | {'×'.join(map(str, info.shape))} | {info.n:,} |" for info in data_sets()]
    (folder / "data.md").write_text("\n".join(data) + "\n\n![The two-dimensional toys with their exact densities](_static/toys.png)\n")
    (folder / "checks.md").write_text(_checks())
    (folder / "model-reference.md").write_text(_model_reference())
    (folder / "metrics.md").write_text(metric_tables.reference())
    (folder / "degradations.md").write_text(metric_tables.degradations())
    (folder / "train-options.md").write_text(_options(TrainOptions) + "\n")


def _checks() -> str:
    from manykin.testing import all_checks

    rows = ["| check | topic | what it demands |", "| --- | --- | --- |"]
    rows += [f"| `{check.name}` | {check.topic} | {check.promise} |" for check in all_checks()]
    return "\n".join(rows) + "\n"


def _model_reference() -> str:
    parts = []
    for name, target in TABLE.items():
        module, _, attribute = target.partition(":")
        parts.append(f"### {name}\n\n```{{eval-rst}}\n.. autoclass:: {module}.{attribute}\n```\n\n" + _options(get(name).config_class) + "\n")
    return "\n".join(parts)


def _options(config: type[Config]) -> str:
    rows = ["| option | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    rows += [f"| `{info.name}` | `{info.default}` | {info.expected()} | {info.help} |" for info in options(config)]
    return "\n".join(rows)


if __name__ == "__main__":
    with style(page=False):
        readme(Path(__file__).parent / "readme.png")
