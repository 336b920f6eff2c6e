"""What the trainer costs: a training step against a bare PyTorch loop, and the start of the command line and of the import.

    python benchmarks/overhead.py [--steps 400] [--pairs 7]

Both loops train the same MLP VAE (784-200-200-20, batch 128) on the same rows with the same fused Adam and the same clipping, in alternating
pairs; the ratio is that of the medians. The bare loop calls the model's loss; everything around it is what one would write by hand. Targets: ratio
at most 1.08, ``manykin --help`` under 0.4 s, ``import manykin`` under 0.1 s (best of several, in fresh processes).
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
from torch import Tensor, nn

from manykin.contract import LOWER_BOUND, Batch, Config, GenerativeModel, Sampler
from manykin.data.dataset import Dataset, Rows
from manykin.spaces import Image, Space, Value
from manykin.training import TrainOptions, train
from manykin.transforms import Support

ROWS, BATCH, LATENT, WIDTH, CLIP, LR = 4096, 128, 20, 200, 10.0, 1e-3


class PlainVAE(GenerativeModel):
    """A Bernoulli VAE with two hidden layers on each side (Kingma and Welling, Auto-encoding variational Bayes, 2014)."""

    kind = LOWER_BOUND
    accepts = Support((Image,), bounded="scale")

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 2 * LATENT))
        self.decoder = nn.Sequential(nn.Linear(LATENT, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 784))

    def loss(self, batch: Batch) -> Tensor:
        assert isinstance(batch.x, Tensor)
        x = batch.x.float() / 255
        mean, log_var = self.encoder(x).chunk(2, dim=1)
        logits = self.decoder(mean + torch.exp(0.5 * log_var) * torch.randn_like(mean))
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1)
        return nn.functional.binary_cross_entropy_with_logits(logits, x.flatten(1), reduction="none").sum(1) + kl

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        return self.decoder(torch.randn(n, LATENT)).sigmoid().view(n, 1, 28, 28) * 2 - 1


def build(space: Space) -> PlainVAE:
    """A model with seeded weights."""
    torch.manual_seed(0)
    return PlainVAE(None, space)


def bare(x: Tensor, steps: int) -> float:
    """Seconds a step of a loop written by hand."""
    model = build(Image((1, 28, 28)))
    optimizer = torch.optim.Adam(model.parameters(), LR, fused=True)
    per_epoch, order = len(x) // BATCH, torch.randperm(len(x))
    begun = time.perf_counter()
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(len(x))
        start = step % per_epoch * BATCH
        loss = model.loss(Batch(x[order[start : start + BATCH]])).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
    return (time.perf_counter() - begun) / steps


def ours(x: Tensor, steps: int) -> float:
    """Seconds a step of the trainer, logging and its guard against divergence included, its start left out."""
    space = Image((1, 28, 28))
    model, ends = build(space), []
    train(
        model,
        Dataset("random pictures", space, Rows(x)),
        TrainOptions(max_steps=steps, batch_size=BATCH, lr=LR, clip=CLIP),
        progress=lambda state: ends.append((state.step, time.perf_counter())),
    )
    (first, begun), (last, ended) = ends[0], ends[-1]
    return (ended - begun) / (last - first)


def fastest(command: list[str], runs: int) -> float:
    """The fewest seconds that a fresh process took."""
    times = []
    for _ in range(runs):
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        times.append(time.perf_counter() - begun)
    return min(times)


def main() -> None:
    """Print the figures, one line each, and all of them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--pairs", type=int, default=7)
    options = parser.parse_args()
    x = torch.randint(0, 256, (ROWS, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    bare(x, 30), ours(x, 30)
    pairs = [(bare(x, options.steps), ours(x, options.steps)) for _ in range(options.pairs)]
    hand, trainer = statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)
    ratios = sorted(b / a for a, b in pairs)
    python = sys.executable
    empty, imported = fastest([python, "-c", ""], 7), fastest([python, "-c", "import manykin"], 7)
    figures = {
        "bare_ms": 1e3 * hand, "trainer_ms": 1e3 * trainer, "ratio": trainer / hand, "ratio_of_pairs": statistics.median(ratios),
        "import_s": imported - empty, "help_s": fastest([python, "-m", "manykin", "--help"], 7),
    }  # fmt: skip
    print(f"step of a bare loop          {figures['bare_ms']:8.3f} ms")
    print(f"step of the trainer          {figures['trainer_ms']:8.3f} ms   ratio {figures['ratio']:.3f} (target 1.08)")
    print(f"ratio, median of the pairs   {figures['ratio_of_pairs']:8.3f}      from {ratios[0]:.3f} to {ratios[-1]:.3f}")
    print(f"import manykin               {figures['import_s']:8.3f} s    (target 0.1; beyond an empty python, {empty:.3f} s)")
    print(f"manykin --help               {figures['help_s']:8.3f} s    (target 0.4)")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
