"""Latent-variable models: MNIST with dynamic binarisation, the digits, and the time of an epoch.

    MANYKIN_DATA=DIR python benchmarks/latent.py mnist     # ten minutes of the MLP vae, its bound and 5000 importance samples; about 25 minutes
    python benchmarks/latent.py digits                     # two minutes of the vae, three seeds; about 12 minutes
    MANYKIN_DATA=DIR python benchmarks/latent.py epoch     # an epoch of the MLP vae beside pythae's; about 1 minute
    python benchmarks/latent.py digits --scale 0.05 --seeds 1     # a twentieth of every budget, to try it out

Every fit has a run folder under ``--out`` and is resumed there, and a finished evaluation is read from it: an interrupted benchmark goes on where it
was. Ablations run at a fifth of the budget, beside all parts at that fifth, and must be worse.

Reach: MNIST ELBO of at least -91.5 nats on all 10,000 test pictures and -87.5 by 5000 importance samples on every tenth of them, in ten minutes
(known: -86.76 after 3,280 epochs, Burda, Grosse and Salakhutdinov, 2016; a linear floor is the mixture of independent pixels below). Digits: under
the independent pixels' 2.43 bits per dimension. Epoch: at most 0.55 of pythae's at batch 128, and 0.4 at batch 512; pythae is optional
(``pip install pythae``), and where it is missing a plain loop over a DataLoader with the same network stands in for it, and is called so.
"""

import argparse
import contextlib
import importlib.util
import io
import itertools
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import manykin as mk
from _kept import kept

MINUTES = 590.0
DIGIT_SECONDS = 115.0
DIGIT_FLOOR = 2.43
NETWORK = {"latent": 50, "network": "mlp", "hidden": (200, 200)}
DYNAMIC = {"binarise": "dynamic"}
Parts = tuple[dict[str, Any], dict[str, Any]]
MNIST_ABLATIONS: dict[str, Parts] = {
    "all parts": ({}, {}),
    "last weights, constant rate": ({}, {"ema": None, "schedule": "constant"}),
    "full precision": ({}, {"precision": "32"}),
    "muon": ({}, {"optimizer": "muon", "lr": 5e-3}),
    "five samples in the loss": ({"samples": 5}, {}),
}
DIGIT_ABLATIONS: dict[str, Parts] = {
    "all parts": ({}, {}),
    "no dropout": ({"dropout": 0.0}, {}),
    "last weights, constant rate": ({}, {"ema": None, "schedule": "constant"}),
    "convolutions": ({"network": "conv"}, {}),
}


def place(out: Path, *words: str) -> Path:
    """The run folder of a label."""
    return out / "-".join(words).replace(" ", "-").replace(",", "")


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean over test pictures and its standard error."""
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


@torch.no_grad()
def judged(model: mk.Fitted, importance: int, draws: int = 4) -> dict[str, Any]:
    """The ELBO on all test pictures, and the bound by importance samples on every tenth."""
    rows = model.test_rows()
    assert rows is not None
    begun, x, vae = time.perf_counter(), rows.all().x, model.model
    elbo = mean_and_error(vae.log_weights(x, draws, seed=1).mean(dim=1))
    tenth = x[::10]
    weights = vae.log_weights(tenth, importance, seed=2)
    tight = mean_and_error(weights.logsumexp(dim=1) - math.log(importance))
    active = int((vae.activity > 0.01).sum())
    return {"elbo": elbo, "tight": tight, "active": active, "k": importance, "seconds": round(time.perf_counter() - begun, 1)}


def mnist(out: Path, scale: float, importance: int) -> None:
    """Ten minutes of the preset ``cpu``, its floor and its ablations."""
    print(f"{'model':44}{'ELBO, nats':>18}{'importance':>18}{'active':>8}{'steps':>8}{'fit, s':>8}   reach -91.5, -87.5")
    floor = kept(out / "mnist-floor.json", lambda: {"nats": list(mnist_floor())})
    print(f"{'independent pixels (classical floor)':44}{floor['nats'][0]:>10.2f} ± {floor['nats'][1]:.2f}", flush=True)
    runs: list[tuple[str, Mapping[str, Any], Mapping[str, Any], float]] = [("vae, preset cpu", {}, {}, scale * MINUTES)]
    runs += [(f"a fifth: {label}", *parts, scale * MINUTES / 5) for label, parts in MNIST_ABLATIONS.items()]
    for label, options, train, seconds in runs:
        folder = place(out, "mnist", label.replace(":", ""))
        model = mk.fit(
            "vae", "mnist", data_options=DYNAMIC, preset="cpu", options=options, train=train, max_time=seconds, out=folder, resume=True, seed=0
        )  # fmt: skip
        found = kept(folder.with_suffix(".json"), lambda model=model: judged(model, importance))
        elbo, tight = (f"{found[key][0]:.2f} ± {found[key][1]:.2f}" for key in ("elbo", "tight"))
        fit = model.result
        print(f"{label:44}{elbo:>18}{tight:>18}{found['active']:>8}{fit.get('steps', 0):>8}{fit.get('seconds', 0):>8.0f}", flush=True)


def mnist_floor() -> tuple[float, float]:
    """Independent pixels, each with its own chance of ink."""
    data = mk.load_data("mnist", options=DYNAMIC)
    assert data.train.chances is not None
    assert data.test is not None
    chance = (data.train.chances.levels.float().mean(dim=0).flatten() / data.train.chances.top).clamp(1e-4, 1 - 1e-4)
    x = data.test.all().x.flatten(1).float()
    return mean_and_error((x * chance.log() + (1 - x) * (1 - chance).log()).sum(dim=1))


def digits(out: Path, seeds: int, scale: float) -> None:
    """Two minutes of the vae on the digits for each seed, and ablations at a fifth."""
    print(f"{'model':44}{'bits per dimension (bound)':>30}{'fit, s':>8}   floor {DIGIT_FLOOR} (independent pixels)")
    runs: list[tuple[str, Mapping[str, Any], Mapping[str, Any], float, int]] = []
    runs += [(f"vae, seed {seed}", {}, {}, scale * DIGIT_SECONDS, seed) for seed in range(seeds)]
    runs += [(f"a fifth: {label}", *parts, scale * DIGIT_SECONDS / 5, 0) for label, parts in DIGIT_ABLATIONS.items()]
    for label, options, train, seconds, seed in runs:
        folder = place(out, "digits", label.replace(":", ""))
        model = mk.fit("vae", "digits", options=options, train=train, max_time=seconds, out=folder, resume=True, seed=seed)

        def compute(model: mk.Fitted = model) -> dict[str, Any]:
            found = {each.name: each for each in mk.evaluate(model, metrics="likelihood", seed=0).metrics}["bits_per_dim"]
            return {"value": found.value, "stderr": found.stderr}

        found = kept(folder.with_suffix(".json"), compute)
        print(f"{label:44}{found['value']:>22.3f} ± {found['stderr']:.3f}{model.result.get('seconds', 0):>8.0f}", flush=True)


class PlainVAE(nn.Module):
    """The network of the epoch task as anyone would write it, for the loop that stands in for pythae."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 200), nn.SiLU(), nn.Linear(200, 200), nn.SiLU())
        self.mean, self.log_variance = nn.Linear(200, 50), nn.Linear(200, 50)
        self.decoder = nn.Sequential(nn.Linear(50, 200), nn.SiLU(), nn.Linear(200, 200), nn.SiLU(), nn.Linear(200, 784), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        seen = self.encoder(x)
        mean, log_variance = self.mean(seen), self.log_variance(seen)
        pictures = self.decoder(mean + (0.5 * log_variance).exp() * torch.randn_like(mean))
        fit = functional.binary_cross_entropy(pictures, x.flatten(1), reduction="none").sum(dim=1)
        return (fit - 0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(dim=1)).mean()


def plain_epochs(x: Tensor, batch: int) -> Callable[[], None]:
    """An epoch of a plain loop over a DataLoader."""
    model = PlainVAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=batch, shuffle=True)

    def epoch() -> None:
        for (rows,) in loader:
            optimizer.zero_grad()
            loss = model(rows)
            loss.backward()
            optimizer.step()

    return epoch


def pythae_epochs(x: Tensor, batch: int, folder: Path) -> Callable[[], None]:
    """An epoch of pythae's trainer on its VAE with the same layers."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            plain = PlainVAE()
            self.layers, self.embedding, self.log_var = plain.encoder, plain.mean, plain.log_variance

        def forward(self, x: Tensor) -> ModelOutput:
            seen = self.layers(x)
            return ModelOutput(embedding=self.embedding(seen), log_covariance=self.log_var(seen))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = PlainVAE().decoder

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.layers(z).view(-1, 1, 28, 28))

    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=50, reconstruction_loss="bce")
    options = BaseTrainerConfig(output_dir=str(folder), learning_rate=1e-3, per_device_train_batch_size=batch, num_epochs=1, no_cuda=True)
    trainer = BaseTrainer(VAE(config, encoder=Encoder(), decoder=Decoder()), BaseDataset(x, torch.zeros(len(x))), training_config=options)
    trainer.prepare_training()

    def epoch() -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            trainer.train_step(1)

    return epoch


def ours(data: Any, batch: int, epochs: int) -> list[float]:
    """Seconds of each epoch but the first, drawing the pictures anew included, with the precision of the preset ``cpu``."""
    steps = len(data.train) // batch
    train = {"max_steps": steps * epochs, "batch_size": batch, "log_every": steps, "eval_every": 10**9}
    model = mk.fit("vae", data, preset="cpu", options=NETWORK, train=train, seed=0)
    marks = [line["seconds"] for line in model.history if line.get("step", 0) and line["step"] % steps == 0 and "loss" in line]
    return [after - before for before, after in itertools.pairwise(marks)]


def epoch(out: Path, rounds: int) -> None:
    """Epochs of both sides in turn, in one process."""
    data = mk.load_data("mnist", options=DYNAMIC)
    x = data.train.all().x.float()
    there = importlib.util.find_spec("pythae") is not None
    name = "pythae" if there else "plain loop (stand-in)"
    if not there:
        print("pythae is not installed: a plain fp32 loop over a DataLoader stands in. `pip install pythae` and run this again for the comparison.")
    for batch, reach in ((128, 0.55), (512, 0.4)):
        theirs = pythae_epochs(x, batch, out / "pythae") if there else plain_epochs(x, batch)
        theirs()
        seconds: dict[str, list[float]] = {"manykin": [], name: []}
        for _ in range(rounds):
            seconds["manykin"] += ours(data, batch, 3)
            begun = time.perf_counter()
            theirs()
            seconds[name].append(time.perf_counter() - begun)
        mine, other = (float(torch.tensor(seconds[each]).median()) for each in ("manykin", name))
        print(f"batch {batch}: manykin {mine:.2f} s, {name} {other:.2f} s an epoch; ratio {mine / other:.2f}, reach {reach} of pythae's", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=("mnist", "digits", "epoch"))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/latent"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="share of every budget of time")
    parser.add_argument("--importance", type=int, default=5000, help="importance samples a picture")
    parser.add_argument("--rounds", type=int, default=3, help="epoch: turns of each side")
    options = parser.parse_args()
    if options.task == "mnist":
        mnist(options.out, options.scale, options.importance)
    elif options.task == "digits":
        digits(options.out, options.seeds, options.scale)
    else:
        epoch(options.out, options.rounds)


if __name__ == "__main__":
    main()
