"""Diffusion and flow matching: toys with known entropy, MNIST pictures judged by a classifier, and the time of a U-Net's step.

    python benchmarks/diffusion.py toys                              # three toys, three seeds, two models and a floor; about 40 minutes
    MANYKIN_DATA=DIR python benchmarks/diffusion.py mnist            # ten minutes of training a model, then 2,000 samples by each sampler
    python benchmarks/diffusion.py step                              # the U-Net's training step, beside diffusers' where that is installed
    python benchmarks/diffusion.py toys --scale 0.05 --seeds 1       # a twentieth of every budget, to try it out

Every fit has a run folder under ``--out`` and is resumed there, and a finished evaluation is read from it: an interrupted benchmark goes on where it
was, and seconds of training are those of all sittings. Ablations run at a fifth of the budget, beside all parts at that fifth, and must be worse.
"ODE error" is the mean difference of log p(x) to that with half the steps: of the likelihood's integrator, not of the model.

Reach: KL gaps of 0.10 nats on each toy within 2 minutes; on MNIST 88 % of samples with a confidence above 0.9 (real: 97 %), all ten classes, a
kernel distance at 20 evaluations within two standard errors of that at 250, ancestral sampling at 20 clearly worse, and 97 % of labels obeyed under
guidance. Known: a prototype of flow matching reached 81 % in 5.5 minutes. Floors: the samples of ppca and of a Gaussian for each class.

``step`` takes one step of each side in turn. The equal pair has the peer's blocks, convolutions, group norms and widths on both sides, and no
attention: at most 0.9 of the time at either precision. The other figure lays our U-Net as the presets have it (fewer blocks, norms over channels,
cheaper changes of resolution, attention at the lowest level, bfloat16) beside the peer in its default precision, fp32, with attention there too: at
most 0.5.
"""

import argparse
import importlib.util
import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import manykin as mk
from _kept import kept, tasks
from manykin.data.toys import toy
from manykin.diffusion import Ancestral, DPMSolver, Heun, Solver
from manykin.models.diffusion.base import Diffusion
from manykin.nn import UNet
from manykin.nn.hardware import has_bf16
from manykin.nn.unet import Block, ChannelNorm

MODELS = ("ddpm", "flow-matching")
TOYS = ("eight-gaussians", "checkerboard", "two-spirals")
FLOOR, PICTURE_FLOORS = "gaussian-mixture", ("ppca", "gaussian")
POINTS = 1000
"""Points at which the integrator's error is estimated."""
WIDTHS = (32, 64, 64)
"""Of both sides of the step."""
TOY_SECONDS, PICTURE_SECONDS = 110.0, 590.0
ABLATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "all parts": ({}, {}),
    "last weights, constant rate": ({}, {"ema": None, "schedule": "constant"}),
    "no waves": ({"waves": 0}, {}),
}
PICTURE_ABLATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "all parts": ({}, {}),
    "last weights, constant rate": ({}, {"ema": None, "schedule": "constant"}),
    "uniform times": ({"times": "uniform"}, {}),
}
SAMPLERS: dict[str, Solver | None] = {
    "default sampler": None,
    "20 evaluations (DPM-Solver++)": DPMSolver(num_inference_steps=20),
    "250 evaluations (DPM-Solver++)": DPMSolver(num_inference_steps=250),
    "20 evaluations (ancestral)": Ancestral(num_inference_steps=20),
    "guided by 2": Heun(guidance_scale=2.0),
}
FIGURES = ("confident_share", "class_coverage", "condition_accuracy", "kernel_distance")


def gap(folder: Path, name: str, data: str, seconds: float, seed: int, options: Mapping[str, Any], train: Mapping[str, Any]) -> dict[str, Any]:
    """The KL gap of one fit to one toy with its standard error, the integrator's mean error, and the seconds of training."""

    def compute() -> dict[str, Any]:
        limit = None if name == FLOOR else seconds
        fitted = mk.fit(name, data, seed=seed, options=options, train=train, max_time=limit, out=folder, resume=True)
        found = {each.name: each for each in mk.evaluate(fitted, metrics="likelihood", seed=seed).metrics}["kl_gap"]
        solved = None
        if isinstance(fitted.model, Diffusion):
            solved = float(fitted.model.integration_error(toy(data).sample(POINTS, seed)).mean())
        return {
            "trained": fitted.result["seconds"], "value": found.value, "stderr": found.stderr, "solved": solved, "strength": found.strength,
            "entropy": toy(data).entropy,
        }  # fmt: skip

    return kept(folder.parent / f"{folder.name}.json", compute, key={"seconds": seconds, "options": options, "train": train})


def toy_line(data: str, label: str, row: Mapping[str, Any]) -> None:
    """One line of the table of toys."""
    solved = "-" if row["solved"] is None else f"{row['solved']:.1g}"
    print(f"{data:18}{label:48}{row['value']:>8.3f} ± {row['stderr']:.3f}{solved:>14}{row['trained']:>12.0f}", flush=True)


def toys(out: Path, seeds: int, scale: float) -> None:
    """KL gaps of both models and the floor on every toy, and the ablation of both."""
    print(f"{'toy':18}{'model':48}{'KL gap, nats':>16}{'ODE error':>14}{'trained, s':>12}   reach 0.10")
    for data in TOYS:
        for name in (FLOOR, *MODELS):
            for seed in range(seeds):
                row = gap(out / f"{data}-{name}-{seed}", name, data, scale * TOY_SECONDS, seed, {}, {})
                label = f"{name} ({'classical floor' if name == FLOOR else row['strength']}), seed {seed}"
                toy_line(data, label, row)
        for name in MODELS:
            for label, (options, train) in ABLATIONS.items():
                place = out / f"{data}-{name}-ablation-{label.replace(' ', '-').replace(',', '')}"
                toy_line(data, f"{name}, a fifth: {label}", gap(place, name, data, scale * TOY_SECONDS / 5, 0, options, train))


def judged(folder: Path, model: mk.Fitted, label: str, n: int) -> dict[str, Any]:
    """The figures of n samples by one sampler, the seconds of training, and those that drawing and judging took."""

    def compute() -> dict[str, Any]:
        begun = time.perf_counter()
        found = mk.evaluate(model, metrics=["classes", "kernel"], n=n, features="own", sampler=SAMPLERS[label], seed=0)
        rows = {each.name: [each.value, each.stderr] for each in found.metrics}
        return {"trained": model.result["seconds"], "judged": round(time.perf_counter() - begun, 1), "rows": rows}

    return kept(folder.parent / f"{folder.name}-{label.replace(' ', '-')}.json", compute, key={"n": n, "trained": model.result["seconds"]})


def picture_line(name: str, label: str, found: Mapping[str, Any], suffix: str = "") -> None:
    """One line of the table of pictures; ``suffix`` picks the figures of real pictures."""
    cells = [found["rows"].get(f"{each}{suffix}") for each in FIGURES]
    text = "".join(f"{'-' if cell is None else f'{cell[0]:.4f} ± {cell[1] or 0:.4f}':>22}" for cell in cells)
    print(f"{name:16}{label:40}{text}" + ("" if suffix else f"{found['trained']:>12.0f}{found['judged']:>11.0f}"), flush=True)


def mnist(out: Path, scale: float, n: int) -> None:
    """Ten minutes of a conditional model on MNIST, its samples judged by a frozen classifier of the real pictures, and classical floors."""
    print(f"{'model':16}{'samples':40}" + "".join(f"{name:>22}" for name in FIGURES) + f"{'trained, s':>12}{'judged, s':>11}")
    for name in PICTURE_FLOORS:
        model = mk.fit(name, "mnist", condition="label", out=out / f"mnist-{name}", resume=True, seed=0)
        picture_line(name, "classical floor", judged(out / f"mnist-{name}", model, "default sampler", n))
    runs = [("", {}, {}, scale * PICTURE_SECONDS, tuple(SAMPLERS))]
    runs += [(f"a fifth: {label}", *parts, scale * PICTURE_SECONDS / 5, ("default sampler",)) for label, parts in PICTURE_ABLATIONS.items()]
    for (label, options, train, seconds, samplers), name in itertools.product(runs, MODELS):
        folder = out / f"mnist-{name}{'-' + label.replace(' ', '-').replace(',', '').replace(':', '') if label else ''}"
        model = mk.fit(
            name, "mnist", condition="label", preset="cpu", options=options, train=train, max_time=seconds, out=folder, resume=True, seed=0
        )  # fmt: skip
        for sampler in samplers:
            found = judged(folder, model, sampler, n)
            picture_line(name, label or sampler, found)
            if not label and sampler == "default sampler":
                picture_line("", "real pictures", found, "_floor")


def stepper(network: torch.nn.Module, ask: Callable[..., Any], x: torch.Tensor, bf16: bool) -> Callable[[], None]:
    """One training step of a network on a batch of pictures."""
    optimizer, target = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True), torch.randn_like(x)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = (ask(network, x, torch.rand(len(x))).float() - target).square().mean()
        loss.backward()
        optimizer.step()

    return step


class Again(torch.nn.Module):
    """Two residual blocks on the way up at one level, both beside what the way down has kept: as many as diffusers has there."""

    def __init__(self, lower: int, width: int) -> None:
        super().__init__()
        self.first, self.second = (Block(each + width, width, 2 * WIDTHS[0], 0.0) for each in (lower, width))
        self.lower = lower

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """(n, lower + width, h, w) to (n, width, h, w)."""
        return self.second(torch.cat([self.first(x, time), x[:, self.lower :]], dim=1), time)  # type: ignore[no-any-return]


def like_the_peer(contiguous: bool) -> UNet:
    """Our U-Net without attention and with the peer's parts: its number of blocks, 3 x 3 convolutions between resolutions, norms over 32 groups.

    What stays ours: blocks are scaled by the time, not only shifted, x passes by the network, and the order of memory: channels last unless
    ``contiguous``, where norms over groups are faster in bfloat16.
    """
    net = UNet(1, WIDTHS, attention=False)
    for level, (width, lower) in enumerate(zip(WIDTHS, (*WIDTHS[1:], WIDTHS[-1]), strict=True)):
        net.up[level] = torch.nn.ModuleList([Again(lower, width)])
        if level < len(net.grow):
            net.shrink[level] = torch.nn.Conv2d(width, width, 3, stride=2, padding=1)
            net.down[level + 1] = torch.nn.ModuleList([Block(width, lower, 2 * WIDTHS[0], 0.0)])
            net.grow[level] = torch.nn.Conv2d(lower, 4 * lower, 3, padding=1)
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, ChannelNorm):
                setattr(module, name, torch.nn.GroupNorm(32, len(child.weight), 1e-5))
    if contiguous:
        net.enter.register_forward_pre_hook(lambda _, given: (given[0].contiguous(),))
    return net


def peers() -> dict[str, torch.nn.Module]:
    """Diffusers' UNet2DModel with one block a level (two on the way up, two between): without attention, and with one head at the lowest level."""
    from diffusers import UNet2DModel

    common: dict[str, Any] = {"sample_size": 32, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "block_out_channels": WIDTHS}
    plain, attends = UNet2DModel(
        down_block_types=("DownBlock2D",) * 3, up_block_types=("UpBlock2D",) * 3, add_attention=False, **common
    ), UNet2DModel(
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=64, **common
    )  # fmt: skip
    return {"diffusers, no attention": plain, "diffusers, attention": attends}


def ask_peer(net: torch.nn.Module, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """What UNet2DModel predicts at times in [0, 1]."""
    return net(x, 1000 * t).sample  # type: ignore[no-any-return]


def ask_ours(net: torch.nn.Module, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """What our U-Net predicts at times in [0, 1]."""
    return net(x, t)  # type: ignore[no-any-return]


def steps(batch: int, repeats: int) -> None:
    """A training step of our U-Net and of diffusers' in turn: 32 x 32, widths 32, 64, 64; medians after 5 rounds, operations, and ratios."""
    x = torch.randn(batch, 1, 32, 32)
    precisions = ("fp32", "bf16") if has_bf16(torch.device("cpu")) else ("fp32",)
    networks: dict[str, torch.nn.Module] = {
        "manykin, the peer's parts": like_the_peer(False), "the same, contiguous": like_the_peer(True), "manykin, as chosen": UNet(1, WIDTHS),
    }  # fmt: skip
    if importlib.util.find_spec("diffusers") is None:
        print("diffusers is not installed, so its side is left out: pip install 'diffusers>=0.35' and run this again.")
    else:
        networks |= peers()
    work = {}
    for name, net in networks.items():
        with FlopCounterMode(display=False) as counter:
            stepper(net, ask_peer if "diffusers" in name else ask_ours, x[:1], False)()
        work[name] = counter.get_total_flops() / 1e9
    runs = {
        (name, precision): stepper(net, ask_peer if "diffusers" in name else ask_ours, x, precision == "bf16")
        for name, net in networks.items() for precision in precisions
    }  # fmt: skip
    spent: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for index in range(5 + repeats):
        for key, run in runs.items():
            begun = time.perf_counter()
            run()
            if index >= 5:
                spent[key].append(time.perf_counter() - begun)
    medians = {key: float(torch.tensor(each).median()) for key, each in spent.items()}
    for (name, precision), seconds in medians.items():
        size = sum(p.numel() for p in networks[name].parameters())
        print(f"{name:28}{precision:6}{seconds:8.3f} s{size:>12,} parameters{work[name]:8.3f} GFLOP a picture", flush=True)
    pairs = [("equal pair", name, each, "diffusers, no attention", each, 0.9) for each in precisions for name in list(networks)[:2]]
    pairs += [("as chosen", "manykin, as chosen", precisions[-1], "diffusers, attention", "fp32", 0.5)]
    for title, name, own, peer, its, reach in pairs:
        if (peer, its) in medians:
            print(f"{title}: {name} in {own} / {peer} in {its} = {medians[name, own] / medians[peer, its]:.2f}   reach {reach:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", choices=("toys", "mnist", "step"), help="all where none is given")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/diffusion"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="share of every budget of time")
    parser.add_argument("--n", type=int, default=2000, help="samples that are judged")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    for task in tasks(options.task, ("toys", "mnist", "step"), needing=("mnist",)):
        if task == "toys":
            toys(options.out, options.seeds, options.scale)
        elif task == "mnist":
            mnist(options.out, options.scale, options.n)
        else:
            steps(options.batch, options.repeats)


if __name__ == "__main__":
    main()
