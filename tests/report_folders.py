"""Run and comparison folders built by hand for the tests of the report: what training would leave, in milliseconds."""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file

from manykin.contract import EXACT, GenerativeModel
from manykin.metrics import Estimate, Evaluation
from manykin.spaces import Column, Image, Space, Table, Tokens, Vector
from manykin.transforms import Support

NASTY = "<script>alert('x')</script>"


class Rings(GenerativeModel):
    """Three Gaussians in the plane that can be inspected."""

    kind = EXACT  # type: ignore[assignment]
    centres = torch.tensor([[0.0, 0.0], [3.0, 1.0], [-2.0, 2.0]], dtype=torch.float64)
    spread = torch.tensor([[[0.6, 0.3], [0.3, 0.4]], [[0.2, 0.0], [0.0, 0.8]], [[0.5, -0.2], [-0.2, 0.3]]], dtype=torch.float64)

    @property
    def accepts(self):
        return Support((Vector,), standardise=False)

    def _sample(self, n, condition, sampler):
        which = torch.randint(0, 3, (n,))
        noise = torch.linalg.cholesky(self.spread)[which] @ torch.randn(n, 2, 1, dtype=torch.float64)
        return self.centres[which] + noise[..., 0]

    def _log_prob(self, z, condition):
        parts = torch.distributions.MultivariateNormal(self.centres, self.spread)
        return torch.logsumexp(parts.log_prob(z.double()[:, None]), dim=1) - math.log(3)

    def parameters_table(self):
        return {"weights": torch.tensor([0.5, 0.3, 0.2]), "means": self.centres, "covariances": self.spread}


class PictureMeans(Rings):
    """A model of pictures whose means can be seen."""

    @property
    def accepts(self):
        return Support((Image,), bounded="keep", standardise=False)

    def parameters_table(self):
        return {"weights": torch.full((10,), 0.1), "means": digits()[:10].double().flatten(1)}


def digits() -> torch.Tensor:
    from sklearn.datasets import load_digits

    return torch.tensor(load_digits().images, dtype=torch.uint8)[:, None]


def estimates(nll: float, strength: str = "exact", note: str = "", bits: float | None = 2.4, quantity: str = "log p(x)") -> tuple[Estimate, ...]:
    found = [Estimate("nll", nll, 0.4, "nats", strength, 360, note, quantity)]
    if bits is not None:
        found.append(Estimate("bits_per_dim", bits, 0.01, "bits/dim", strength, 360, note, quantity))
    return tuple(found)


def distances(value: float) -> tuple[Estimate, ...]:
    return (
        Estimate("energy_distance", value, 0.02, "data units", "estimate", 360, "", "samples"),
        Estimate("energy_distance_floor", -0.001, 0.015, "data units", "estimate", 360, "", "samples"),
    )


def history(steps: int = 300) -> list[dict[str, float]]:
    generator = torch.Generator().manual_seed(0)
    lines = []
    for step in range(0, steps, 2):
        noise = float(torch.randn(1, generator=generator))
        lines.append({"step": step, "seconds": 0.02 * step, "loss": 100 / (1 + step / 20) + noise, "lr": 1e-3 * (1 - step / steps)})
        if step % 50 == 0:
            lines.append({"step": step, "seconds": 0.02 * step, "val_loss": 104 / (1 + step / 20)})
    return lines


def write_run(folder: Path, model: str, space: Space, real: torch.Tensor, fake: torch.Tensor, metrics: tuple[Estimate, ...] = ()) -> Path:
    (folder / "samples").mkdir(parents=True)
    config = {
        "format": 1, "model": {"name": model, "config": {"components": 3}}, "space": space.to_json(), "condition": None, "sizes": {},
        "transform": ["dequantise", "logit"], "training": {"max_steps": 300, "lr": 0.001}, "seed": 0,
        "data": {"name": "digits", "sha256": "ab" * 32, "licence": "CC BY 4.0", "rows": {"train": 1437, "test": 360}},
        "versions": {"torch": "2.13", "manykin": "0.1.0"},
        "result": {"seconds": 12.345, "parameters": 123456, "steps": 300, "peak_memory_bytes": 123_000_000, "stopped": "max_steps"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in history()) + '\n{"step": 3')
    if metrics:
        write_evaluation(folder, model, metrics)
    save_file({"x": real.contiguous()}, folder / "samples" / "real.safetensors")
    save_file({"x": fake.contiguous()}, folder / "samples" / "final.safetensors")
    return folder


def write_evaluation(folder: Path, model: str, metrics: tuple[Estimate, ...], warnings: tuple[str, ...] = (), **details: object) -> None:
    (folder / "evaluation.json").write_text(json.dumps(Evaluation(model, "digits", metrics, warnings, details).to_json()))


def write_neighbours(folder: Path, samples: torch.Tensor, train: torch.Tensor) -> None:
    """Eight samples, three training rows each, and their distances, of which the first is 0."""
    distance = torch.linspace(0.0, 2.0, 24).reshape(8, 3)
    tensors = {"samples": samples[:8].contiguous(), "train": train[:24].reshape(8, 3, *train.shape[1:]).contiguous(), "distance": distance}
    save_file({f"neighbours.{key}": value.clone() for key, value in tensors.items()}, folder / "evaluation.safetensors")


def classes(shares: list[float]) -> dict[str, object]:
    return {"names": [NASTY, "one", "two"], "real": [0.5, 0.3, 0.2], "samples": shares}


def usefulness(score: float, own: bool = False) -> dict[str, object]:
    rows = [{"trained_on": "real", "classifier": "logistic regression", "score": 0.95, "stderr": 0.01},
            {"trained_on": "synthetic", "classifier": "logistic regression", "score": score, "stderr": 0.02},
            {"trained_on": "synthetic", "classifier": "gradient boosting", "score": None, "stderr": None},
            {"trained_on": "nothing", "classifier": "the most frequent class", "score": 0.4, "stderr": None}]  # fmt: skip
    if own:
        rows.append({"trained_on": "real", "classifier": "its own rule", "score": 0.91, "stderr": 0.01})
    else:
        rows.append({"trained_on": "synthetic", "classifier": "its own rule", "score": 0.66, "stderr": 0.03})
    return {"task": "classification", "score": "accuracy", "target": "label", "rows": rows}


def augmentation(verdict: str) -> dict[str, object]:
    return {"target": "label", "verdict": verdict, "rows": [
        {"n_real": 100, "classifier": "logistic regression", "real": 0.8, "both": 0.85, "difference": 0.05, "stderr": 0.01}]}  # fmt: skip


def curve(*values: float) -> list[dict[str, float]]:
    return [{"step": 10 * i, "seconds": 0.5 * i, "energy_distance": value, "stderr": 0.02} for i, value in enumerate(values)]


def row(model: str, metrics: tuple[Estimate, ...], density: str = "exact", **more: object) -> dict[str, object]:
    plain = {"model": model, "data": "digits", "metrics": [metric.to_json() for metric in metrics], "seconds": 3.2, "parameters": 12_345,
             "peak_memory_bytes": 456_000_000, "sampling_seconds": 0.05, "density": density, "error": None}  # fmt: skip
    return plain | more


def write_comparison(folder: Path) -> Path:
    """Ten digits models as a comparison: exact, bounds, conditional, implicit, infinite and failed ones; one with several seeds."""
    folder.mkdir(parents=True)
    space, real = Image((1, 8, 8), 17), digits()
    seeded = [{"folder": f"realnvp-seed{seed}", "seed": seed, "seconds": 61.0, "steps": 9, "metrics": [], "error": "boom" if seed == 0 else None}
              for seed in (0, 1, 2)]  # fmt: skip
    rows = [
        row("independent", estimates(107.9, bits=2.434) + distances(1.95)),
        row("vae", estimates(98.1, "bound", "k=64", bits=2.21) + distances(0.11), "bound", seconds=42.0, parameters=1_234_567,
            curve=curve(1.9, 0.5, 0.2, 0.11)),
        row("gaussian-mixture", estimates(112.0, "bound", "k=16", bits=2.525) + distances(0.05), "bound"),
        row("mixture", estimates(95.2, bits=2.146) + distances(0.08)),
        row("realnvp", estimates(130.0, "bound", "k=16", bits=2.93) + distances(0.4), "bound", seconds=61.0, seeds=[0, 1, 2], runs=seeded),
        row("class-mixture", estimates(90.0, bits=2.03, quantity="log p(x | c)") + distances(0.04)),
        row("gan", distances(0.6), "none", seconds=75.0, warnings=[f"3 of 10 classes are missing {NASTY}; lower the learning rate."]),
        row("box", estimates(math.inf, note="2 of 360 rows outside the support; mean over the other 358: 180.1", bits=math.inf) + distances(4.0)),
        row("kde", (), error=f"singular matrix in column {NASTY}", seconds=None, parameters=None, sampling_seconds=None),
    ]  # fmt: skip
    for entry in rows[:-1]:
        noise = torch.randint(0, 3, (64, 1, 8, 8), generator=torch.Generator().manual_seed(len(str(entry["model"]))))
        fake = (real[-64:].int() + noise.int()).clamp(0, 16).to(torch.uint8)
        name = str(entry["model"])
        run = write_run(folder / ("realnvp-seed1" if name == "realnvp" else name), name, space, real[:64], fake)
        if name not in ("mixture", "vae"):
            (run / "metrics.jsonl").unlink()
    details = {"classes": classes([0.6, 0.38, 0.02]), "usefulness": usefulness(0.7), "augmentation": augmentation("It helped below 200 rows.")}
    write_evaluation(folder / "gan", "gan", distances(0.6), **details)
    write_evaluation(folder / "vae", "vae", distances(0.11), classes=classes([0.5, 0.3, 0.2]), usefulness=usefulness(0.9, own=True))
    write_neighbours(folder / "gan", real[:8], real[:24])
    (folder / "compare.json").write_text(json.dumps(rows))
    asked = {"format": 1, "models": [{"label": "vae", "name": "vae"}], "data": {"name": "digits"}, "seeds": [0], "budget": {"max_time": 60.0}}
    (folder / "comparison.json").write_text(json.dumps(asked))
    save_file({"x": real[:360].contiguous()}, folder / "real.safetensors")
    return folder


def write_plane(folder: Path) -> Path:
    model = Rings(None, Vector(2))
    real, fake = model.sample(600, seed=0), model.sample(256, seed=1)
    metrics = (Estimate("nll", 2.9, 0.04, "nats", "exact", 600), Estimate("kl_gap", 0.1, 0.04, "nats", "exact", 600), *distances(0.02))
    return write_run(folder, "gaussian-mixture", Vector(2, names=("left", "right")), real, fake, metrics)


def write_table(folder: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    columns = (
        Column(NASTY), Column("$price$ in €", missing=True),
        Column("colour", "categorical", categories=(NASTY, "red", "blue & green", "x"), missing=True),
        Column("children", "integer", levels=9), Column("age"),
    )  # fmt: skip

    def draw(n: int, shift: float) -> torch.Tensor:
        numbers = torch.randn(n, 2, generator=generator, dtype=torch.float64) + shift
        numbers[: n // 8, 1] = math.nan
        colour = torch.randint(0, 4, (n, 1), generator=generator).double()
        children = torch.randint(0, 9, (n, 1), generator=generator).double()
        return torch.cat([numbers, colour, children, 30 + 10 * numbers[:, :1] + torch.randn(n, 1, generator=generator, dtype=torch.float64)], 1)

    return write_run(folder, "mixture", Table(columns), draw(500, 0.0), draw(256, 0.3), estimates(6.0, bits=None) + distances(0.3))


def write_text(folder: Path) -> Path:
    symbols = ("", *"abcdefgh <>&")
    space = Tokens(len(symbols), 12, end=0, symbols=symbols)
    codes = torch.randint(1, len(symbols), (20, 12), generator=torch.Generator().manual_seed(0))
    codes[:, -3:] = 0
    return write_run(folder, "ngram", space, codes, codes.flip(0), estimates(20.0, bits=2.2))
