"""Latent-variable models: MNIST with dynamic binarisation, the digits, and the time of an epoch.

    python benchmarks/latent.py                            # all tasks; without MANYKIN_DATA the digits alone
    MANYKIN_DATA=DIR python benchmarks/latent.py mnist     # ten minutes of the MLP vae, its bound and 5000 importance samples; about 20 minutes
    python benchmarks/latent.py digits                     # two minutes of the vae, three seeds; about 8 minutes
    MANYKIN_DATA=DIR python benchmarks/latent.py epoch     # an epoch of the MLP vae beside pythae's; about 2 minutes
    python benchmarks/latent.py digits --scale 0.05 --seeds 1     # a twentieth of every budget, to try it out

Every fit has a run folder under ``--out`` and is resumed there, and a finished evaluation is read from it: an interrupted benchmark goes on where it
was. Ablations run at a fifth of the budget, beside all parts at that fifth, and must be worse: by how much (on MNIST of the ELBO), with the error of
the difference over the same test pictures, and whether that is more than two errors, is printed. A limit of time becomes a number of steps once,
after a few of them: seconds of training, by the run's own clock, stand beside the limit.

Reach: MNIST ELBO of at least -91.5 nats on all 10,000 test pictures and -87.5 by 5000 importance samples on every tenth of them, in ten minutes
(known: -86.76 after 3,280 epochs, Burda, Grosse and Salakhutdinov, 2016; the floor is independent pixels, each with its own chance of ink). Digits,
in two minutes: fewer bits per dimension than independent pixels, which are fitted in the same run. Both are bounds: the number k of importance
samples stands beside each, and on the digits the bound by one draw too. Epoch: at most 0.55 of pythae's at batch 128, and 0.4 at batch 512. pythae
computes in float32: the ratio at equal precision is printed, and that of bfloat16, which the preset ``cpu`` chooses, where the hardware multiplies
it. pythae is optional (``pip install pythae``), and where it is missing a plain loop over a DataLoader with the same network stands in for it, and is
called so.
"""

import argparse
import contextlib
import importlib.util
import io
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import manykin as mk
from _kept import kept, listed, losses, mean_and_error, slug, tasks, worse, yes
from manykin.nn.hardware import has_bf16

MNIST_SECONDS, MNIST_LIMIT = 590.0, 600.0
DIGIT_SECONDS, DIGIT_LIMIT = 115.0, 120.0
ELBO_REACH, TIGHT_REACH = -91.5, -87.5
EPOCH_REACH = {128: 0.55, 512: 0.4}
FLOOR = "independent"
NETWORK = {"latent": 50, "network": "mlp", "hidden": (200, 200)}
DYNAMIC = {"binarise": "dynamic"}
Parts = tuple[dict[str, Any], dict[str, Any]]
MNIST_ABLATIONS: dict[str, Parts] = {
    "all parts": ({}, {}),
    "last weights, constant rate": ({}, {"ema": None, "schedule": "constant"}),
    "one hidden layer": ({"hidden": (200,)}, {}),
}
DIGIT_ABLATIONS: dict[str, Parts] = {
    "all parts": ({}, {}),
    "no dropout": ({"dropout": 0.0}, {}),
    "last weights, constant rate": ({}, {"ema": None, "schedule": "constant"}),
}


@torch.no_grad()
def judged(model: mk.Fitted, importance: int, draws: int = 4) -> dict[str, Any]:
    """The ELBO on all test pictures, and the bound by importance samples on every tenth."""
    rows = model.test_rows()
    assert rows is not None
    begun, x, vae = time.perf_counter(), rows.all().x, model.model
    elbo = vae.log_weights(x, draws, seed=1).mean(dim=1)
    weights = vae.log_weights(x[::10], importance, seed=2)
    tight = mean_and_error(weights.logsumexp(dim=1) - math.log(importance))
    active = int((vae.activity > 0.01).sum())
    fit = {"steps": model.result["steps"], "seconds": model.result["seconds"]}
    judging = round(time.perf_counter() - begun, 1)
    return {"elbo": mean_and_error(elbo), "tight": tight, "active": active, **fit, "judging": judging, "values": listed(-elbo)}


def mnist(out: Path, scale: float, importance: int) -> None:
    """Ten minutes of the preset ``cpu``, its floor and its ablations."""
    print(f"{'model':44}{'ELBO, nats':>18}{f'bound, k={importance}':>18}{'active':>8}{'steps':>8}{'fit, s':>8}")
    floor = kept(out / "mnist-floor.json", lambda: {"nats": list(mnist_floor())}, key={"rows": "train, every row once"})
    print(f"{'independent pixels (classical floor)':44}{floor['nats'][0]:>10.2f} ± {floor['nats'][1]:.2f}", flush=True)
    runs: list[tuple[str, Mapping[str, Any], Mapping[str, Any], float]] = [("vae, preset cpu", {}, {}, scale * MNIST_SECONDS)]
    runs += [(f"a fifth: {label}", *parts, scale * MNIST_SECONDS / 5) for label, parts in MNIST_ABLATIONS.items()]
    whole: list[float] = []
    for label, options, train, seconds in runs:
        folder = out / slug("mnist", f"{scale:g}", label)

        def compute(
            options: Mapping[str, Any] = options, train: Mapping[str, Any] = train, seconds: float = seconds, folder: Path = folder
        ) -> dict[str, Any]:
            model = mk.fit(
                "vae", "mnist", data_options=DYNAMIC, preset="cpu", options=options, train=train, max_time=seconds, out=folder, resume=True, seed=0
            )  # fmt: skip
            return judged(model, importance)

        key = {"options": dict(options), "train": dict(train), "seconds": seconds, "importance": importance}
        found = kept(folder.parent / f"{folder.name}.json", compute, key=key)
        elbo, tight = (f"{found[name][0]:.2f} ± {found[name][1]:.2f}" for name in ("elbo", "tight"))
        part = label.startswith("a fifth") and bool(whole)
        note = f"   {worse(found['values'], whole)}" if part else ""
        whole = found["values"] if label.startswith("a fifth") and not whole else whole
        print(f"{label:44}{elbo:>18}{tight:>18}{found['active']:>8}{found['steps']:>8}{found['seconds']:>8.0f}{note}", flush=True)
        if not label.startswith("a fifth"):
            reached(found, importance)


def reached(found: Mapping[str, Any], importance: int) -> None:
    """Both verdicts on the fit of ten minutes."""
    for name, label, reach in (("elbo", "ELBO", ELBO_REACH), ("tight", f"bound of {importance} samples", TIGHT_REACH)):
        verdict = yes(found[name][0] >= reach and found["seconds"] <= MNIST_LIMIT)
        print(f"  {label} reaches {reach} within {MNIST_LIMIT:.0f} s: {verdict} ({found[name][0]:.2f}, {found['seconds']:.0f} s)", flush=True)


def mnist_floor() -> tuple[float, float]:
    """Independent pixels, each with its own chance of ink among the training pictures."""
    data = mk.load_data("mnist", options=DYNAMIC)
    assert data.train.chances is not None
    assert data.test is not None
    chances = data.train.chances if data.train.index is None else data.train.chances.at(data.train.index)
    chance = (chances.levels.float().mean(dim=0).flatten() / chances.top).clamp(1e-4, 1 - 1e-4)
    x = data.test.all().x.flatten(1).float()
    return mean_and_error((x * chance.log() + (1 - x) * (1 - chance).log()).sum(dim=1))


def digit_figure(folder: Path, name: str, seconds: float | None, seed: int, parts: Parts) -> dict[str, Any]:
    """-log p of every test row under one fit of the digits, in bits per dimension: the mean and its error, by many draws and by one."""
    options, train = parts
    unit = 1 / (64 * math.log(2))

    def compute() -> dict[str, Any]:
        model = mk.fit(name, "digits", options=options, train=train, max_time=seconds, out=folder, resume=True, seed=seed)
        rows = model.test_rows()
        assert rows is not None
        values, draws = losses(model.model, rows)
        once = None if draws == 1 else mean_and_error(unit * losses(model.model, rows, 1)[0])
        return {
            "figure": mean_and_error(unit * values), "once": once, "draws": draws, "seconds": model.result["seconds"], "values": listed(values)
        }  # fmt: skip

    key = {"model": name, "options": options, "train": train, "seconds": seconds, "seed": seed}
    return kept(folder.parent / f"{folder.name}.json", compute, key=key)


def digits(out: Path, seeds: int, scale: float) -> None:
    """Two minutes of the vae on the digits for each seed beside independent pixels, and ablations at a fifth."""
    print(f"{'model':44}{'bits/dim':>17}{'':>14}{'by one draw':>17}{'fit, s':>8}")
    floor = digit_figure(out / "digits-floor", FLOOR, None, 0, ({}, {}))
    tell("independent pixels (classical floor)", floor)
    limit, found = floor["figure"][0], []
    for seed in range(seeds):
        row = digit_figure(out / slug("digits", f"{scale:g}", seed), "vae", scale * DIGIT_SECONDS, seed, ({}, {}))
        found.append(row)
        verdict = yes(row["figure"][0] < limit and row["seconds"] <= DIGIT_LIMIT)
        tell(f"vae, seed {seed}", row, f"below the floor within {DIGIT_LIMIT:.0f} s: {verdict}")
    values, spent = [row["figure"][0] for row in found], max(row["seconds"] for row in found)
    print(
        f"mean {sum(values) / len(values):.3f}, seeds {min(values):.3f} to {max(values):.3f}, at most {spent:.0f} s; all below the floor "
        f"({limit:.3f}) within {DIGIT_LIMIT:.0f} s: {yes(max(values) < limit and spent <= DIGIT_LIMIT)}", flush=True,
    )  # fmt: skip
    whole: list[float] = []
    for label, parts in DIGIT_ABLATIONS.items():
        row = digit_figure(out / slug("digits", f"{scale:g}", "fifth", label), "vae", scale * DIGIT_SECONDS / 5, 0, parts)
        whole = whole or row["values"]
        tell(f"a fifth: {label}", row, "" if label == "all parts" else worse(row["values"], whole, 1 / (64 * math.log(2))))


def tell(label: str, row: Mapping[str, Any], note: str = "") -> None:
    """One line of the digits."""
    (value, error), once = row["figure"], row["once"]
    many, single = ("exact", "") if once is None else (f"bound, k={row['draws']}", f"{once[0]:.3f} ± {once[1]:.3f}")
    print(f"{label:44}{value:>9.3f} ± {error:.3f}{many:>14}{single:>17}{row['seconds']:>8.0f}   {note}", flush=True)


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


def ours(data: Any, batch: int, epochs: int, precision: str) -> list[float]:
    """Seconds of each epoch but the first, drawing the pictures anew included."""
    steps = len(data.train) // batch
    train = {"max_steps": steps * epochs, "batch_size": batch, "log_every": steps, "eval_every": 10**9, "precision": precision}
    model = mk.fit("vae", data, preset="cpu", options=NETWORK, train=train, seed=0)
    marks = [line["seconds"] for line in model.history if line.get("step", 0) and line["step"] % steps == 0 and "loss" in line]
    return [after - before for before, after in itertools.pairwise(marks)]


def epoch(out: Path, rounds: int) -> None:
    """Epochs of both sides in turn, in one process: two of ours in each precision, and two of theirs, a round."""
    data = mk.load_data("mnist", options=DYNAMIC)
    x = data.train.all().x.float()
    there = importlib.util.find_spec("pythae") is not None
    name = "pythae" if there else "plain loop (stand-in)"
    if not there:
        print("pythae is not installed: a plain fp32 loop over a DataLoader stands in. `pip install pythae` and run this again for the comparison.")
    precisions = {"fp32": "32"} | ({"bf16": "bf16"} if has_bf16(torch.device("cpu")) else {})
    if "bf16" not in precisions:
        print("this processor does not multiply bf16: its ratio is left out.")
    for batch, reach in EPOCH_REACH.items():
        theirs = pythae_epochs(x, batch, out / "pythae") if there else plain_epochs(x, batch)
        theirs()
        seconds: dict[str, list[float]] = {label: [] for label in (*precisions, name)}
        for _ in range(rounds):
            for label, precision in precisions.items():
                seconds[label] += ours(data, batch, 3, precision)
            for _ in range(2):
                begun = time.perf_counter()
                theirs()
                seconds[name].append(time.perf_counter() - begun)
        other = statistics.median(seconds[name])
        for label in precisions:
            mine = statistics.median(seconds[label])
            print(
                f"batch {batch}: manykin {label} {mine:.2f} s, {name} fp32 {other:.2f} s an epoch, medians of {len(seconds[name])}; ratio "
                f"{label}/fp32 {mine / other:.2f}, at most {reach}: {yes(mine / other <= reach)}{'' if there else ', of the stand-in'}", flush=True,
            )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", choices=("mnist", "digits", "epoch"), help="all where none is named")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/latent"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="share of every budget of time")
    parser.add_argument("--importance", type=int, default=5000, help="importance samples a picture")
    parser.add_argument("--rounds", type=int, default=3, help="epoch: turns of each side, of two epochs")
    options = parser.parse_args()
    for task in tasks(options.task, ("mnist", "digits", "epoch"), needing=("mnist", "epoch")):
        if task == "mnist":
            mnist(options.out, options.scale, options.importance)
        elif task == "digits":
            digits(options.out, options.seeds, options.scale)
        else:
            epoch(options.out, options.rounds)


if __name__ == "__main__":
    main()
