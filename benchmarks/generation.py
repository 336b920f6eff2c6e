"""A training step and generation of gpt beside GPT-2 of the same shape from `transformers`, alternating in one process.

    python benchmarks/generation.py                          # 6 layers x 384, vocabulary 65, 256 tokens
    python benchmarks/generation.py --tokens 32 --rounds 2 --steps 2
    python benchmarks/generation.py --run runs/benchmarks/text/cpu-1-0   # quality of bf16 and int8 on trained weights

To reach: a step of at most 0.8 x transformers' at equal precision; generation at least 3 x at batch 1 and 2 x at batch 16, with log-probabilities of
the generated text within 0.01 nats per token of float32; at least 5 x what it takes without the cache. Both sides have the same vocabulary, context,
layers, heads and widths, no dropout, fused AdamW, and draw from the whole softmax. The fastest round of each counts, after rounds to warm up; without
the cache, which is slow, there is one round and none to warm up. Ratios name the precision of both sides; bf16 is left out where it is emulated.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import manykin as mk
from _kept import yes
from manykin.contract import Batch
from manykin.decoding import Decoding
from manykin.models.autoregressive.gpt import GPT, GPTConfig
from manykin.nn.hardware import has_bf16
from manykin.spaces import Tokens
from manykin.training.optim import Stepper

STEP, GENERATION, CACHE, NEAR = 0.8, {1: 3.0, 16: 2.0}, 5.0, 0.01


def ours(options: argparse.Namespace) -> GPT:
    """Our model with its own parts."""
    torch.manual_seed(0)
    config = GPTConfig(layers=options.layers, heads=options.heads, width=options.width)
    return GPT(config, Tokens(options.vocab, options.tokens)).to(options.device)


def theirs(options: argparse.Namespace) -> Any:
    """GPT-2 of the same shape."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=options.vocab, n_positions=options.tokens + 1, n_embd=options.width, n_layer=options.layers, n_head=options.heads,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).to(options.device)


def race(runners: dict[str, Callable[[], object]], rounds: int, warm: int) -> dict[str, float]:
    """Seconds of the fastest round of each, all in turn."""
    best = dict.fromkeys(runners, float("inf"))
    for turn in range(warm + rounds):
        for name, runner in runners.items():
            begun = time.perf_counter()
            runner()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= warm:
                best[name] = min(best[name], time.perf_counter() - begun)
    return best


def stepping(loss: Callable[[], Tensor], optimizers: list[Any], parameters: list[Tensor], bf16: bool, device: str) -> Callable[[], None]:
    """One training step: loss, gradients, update."""

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        with torch.autocast(device, torch.bfloat16) if bf16 else nullcontext():
            value = loss()
        value.float().backward()
        for optimizer in optimizers:
            optimizer.step()

    return step


def steps(options: argparse.Namespace, bf16: bool) -> dict[str, float]:
    """Seconds of a training step: theirs, ours with AdamW, ours with Muon."""
    x = torch.randint(options.vocab, (options.batch, options.tokens), device=options.device)
    runners = {}
    peer = theirs(options).train()
    adam = torch.optim.AdamW(peer.parameters(), 1e-3, fused=True)
    runners["transformers"] = stepping(lambda: peer(input_ids=x, labels=x).loss, [adam], list(peer.parameters()), bf16, options.device)
    for name in ("adamw", "muon"):
        own = ours(options).train()
        phase = own.phases()[0]
        stepper = Stepper(own, phase, replace(phase.optimizer, name=name))
        runners[f"gpt, {name}"] = stepping(lambda own=own: own.loss(Batch(x)).mean(), stepper.optimizers, stepper.parameters, bf16, options.device)  # type: ignore[misc]
    return race(runners, options.steps, 5)


def halves(device: str) -> list[str]:
    """The precisions below 32 bits that this machine draws in."""
    return [*(["bf16"] if has_bf16(torch.device(device)) else []), *(["int8"] if device == "cpu" else [])]


def generation(options: argparse.Namespace, batch: int, bf16: bool) -> dict[str, float]:
    """Tokens a second of each way to generate."""
    n = options.tokens - 1
    start = torch.zeros(batch, 1, dtype=torch.long, device=options.device)
    models = {"transformers": theirs(options).eval()}
    if bf16:
        models["transformers, bf16"] = theirs(options).eval().bfloat16()
    rule = {"max_new_tokens": n, "min_new_tokens": n, "do_sample": True, "top_k": 0, "attention_mask": torch.ones_like(start)}
    runners: dict[str, Callable[[], object]] = {name: lambda model=model: model.generate(start, **rule) for name, model in models.items()}  # type: ignore[misc]
    own = ours(options).eval()
    runners["gpt"] = lambda: own.continuation(start, n, seed=0)
    for name in halves(options.device):
        rules = Decoding(precision=name)
        runners[f"gpt, {name}"] = lambda rules=rules: own.continuation(start, n, seed=0, sampler=rules)  # type: ignore[misc]
    found = race(runners, options.rounds, 1)
    if not options.no_uncached:
        found |= race({"gpt, no cache": lambda: own.continuation(start, n, seed=0, sampler=Decoding(use_cache=False))}, 1, 0)
    return {name: batch * n / seconds for name, seconds in found.items()}


@torch.no_grad()
def quality(options: argparse.Namespace, precision: Any) -> dict[str, float]:
    """How far log-probabilities under such weights are from float32, on text that was generated with them: mean and mean absolute, nats per token."""
    model = ours(options).eval() if options.run is None else mk.from_pretrained(options.run).model.to(options.device).eval()
    assert isinstance(model, GPT)
    text = model.sample(16, seed=0, sampler=Decoding(precision=precision))
    assert isinstance(text, Tensor)
    expected = model.log_conditionals(text)
    hidden = model.body.packed(torch.bfloat16 if has_bf16(model.device) else torch.float32, precision == "int8")(model.embed(text[:, :-1], None))
    found = model.logits(hidden).log_softmax(-1).gather(2, text[..., None])[..., 0]
    return {"mean": float((found - expected).mean()), "absolute": float((found - expected).abs().mean())}


def told(label: str, value: float, way: str, reach: float) -> None:
    """A verdict in a line."""
    print(f"{label}: {value:.3g}, {way} {reach}: {yes(value <= reach if way == 'at most' else value >= reach)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("layers", 6), ("heads", 6), ("width", 384), ("vocab", 65), ("tokens", 256), ("batch", 8), ("rounds", 3), ("steps", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--run", type=Path, help="a run folder of gpt whose trained weights show the quality of bf16 and int8")
    parser.add_argument("--no-uncached", action="store_true", help="leave out generation without the cache, which is slow")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/generation.json"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    bf16 = has_bf16(torch.device(options.device))
    result: dict[str, Any] = {"threads": torch.get_num_threads(), "device": options.device}
    for half in (False, True) if bf16 else (False,):
        label = "bf16" if half else "fp32"
        result[f"step {label}"] = found = steps(options, half)
        for name, seconds in found.items():
            print(f"step {label}  {name:20} {1000 * seconds:8.1f} ms  {seconds / found['transformers']:.2f} x transformers' in {label}", flush=True)
        told(f"step {label}, gpt with AdamW", found["gpt, adamw"] / found["transformers"], "at most", STEP)
    for batch in GENERATION:
        result[f"generation {batch}"] = speeds = generation(options, batch, bf16)
        for name, speed in speeds.items():
            shares = "  ".join(f"{speed / speeds[peer]:.2f} x {peer}" for peer in ("transformers", "transformers, bf16") if peer in speeds)
            print(f"batch {batch:3}  {name:20} {speed:8.0f} tokens/s  {shares}", flush=True)
        own = speeds["gpt"]
        best = max((name for name in speeds if name.startswith("gpt")), key=lambda name: speeds[name])
        told(f"batch {batch}, {best} by transformers in fp32", speeds[best] / speeds["transformers"], "at least", GENERATION[batch])
        if bf16:
            told(f"batch {batch}, {best} by transformers in bf16", speeds[best] / speeds["transformers, bf16"], "at least", GENERATION[batch])
        told(f"batch {batch}, gpt by transformers, both in fp32", own / speeds["transformers"], "at least", GENERATION[batch])
        if "gpt, no cache" in speeds:
            told(f"batch {batch}, gpt in fp32 with the cache by without", own / speeds["gpt, no cache"], "at least", CACHE)
    for name in halves(options.device):
        result[name] = near = quality(options, name)
        print(f"{name} against float32 on generated text: mean {near['mean']:+.5f}, absolute {near['absolute']:.5f} nats/token", flush=True)
        told(f"{name}, nats per token from float32, absolute", near["absolute"], "at most", NEAR)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
