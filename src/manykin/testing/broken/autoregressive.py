"""Leaking masks, blind spots, shifted targets, stale caches, wrong decoding, and continuations that are none."""

import math

import torch
from torch import Tensor

from manykin.contract import Sampler
from manykin.decoding import Decoding
from manykin.random import seeded
from manykin.spaces import Image, Tokens, Value
from manykin.testing.broken.registry import caught_by
from manykin.testing.oracles.chain import ChainOracle
from manykin.testing.oracles.pictures import PictureOracle

STREAM = Tokens(3, 4)
STRINGS = Tokens(4, 5, end=0)
PICTURE = Image((1, 3, 3), levels=2)
COLOUR = Image((3, 2, 2), levels=2)


@caught_by("conditionals-see-only-the-past", "mass-is-one", space=STREAM)
class LeakingMask(ChainOracle):
    """Each symbol sees the one after it."""

    def logits(self, z: Tensor, position: int) -> Tensor:
        own = super().logits(z, position)
        if position + 1 >= z.shape[1]:
            return own
        return own + 0.7 * torch.nn.functional.one_hot(z[:, position + 1], self.tokens.vocab)


@caught_by("conditionals-see-only-the-past", "mass-is-one", space=STREAM)
class NormsOverTime(ChainOracle):
    """Normalises over the positions of the text, those to come included."""

    def logits(self, z: Tensor, position: int) -> Tensor:
        return super().logits(z, position) * (1 + 0.3 * (z == 0).double().mean(1, keepdim=True).to(self.dtype))


@caught_by("mass-is-one", "conditionals-sum-to-one", space=STREAM)
class ShiftedTarget(ChainOracle):
    """Scores the symbol that was read instead of the one that follows."""

    def terms(self, z: Tensor) -> Tensor:
        found = [self.logits(z, t).log_softmax(1).gather(1, z[:, max(t - 1, 0) : max(t - 1, 0) + 1]) for t in range(self.tokens.length)]
        return torch.cat(found, dim=1)


class StaleCache(ChainOracle):
    """The cache keeps the first symbol instead of the newest one."""

    def next_logits(self, z: Tensor, position: int) -> Tensor:
        if 1 < position < self.tokens.length:
            z = z.clone()
            z[:, position - 1] = z[:, 0]
        return super().next_logits(z, position)


@caught_by("greedy-takes-the-most-probable", "continuation-follows-conditional", "samples-match-density", space=STREAM)
class StaleStream(StaleCache):
    """The cache keeps the first symbol instead of the newest one."""

    def __init__(self, config: object, space: Tokens, condition: None = None) -> None:
        super().__init__(config, space, condition)  # type: ignore[arg-type]
        # Every symbol is followed by the next one, so that what was read last matters.
        with torch.no_grad():
            self.next.add_(4.0 * torch.eye(space.vocab).roll(1, 1))


@caught_by("conditionals-sum-to-log-prob", space=STRINGS)
class CountsPadding(ChainOracle):
    """Counts the filled positions behind the end of a string once more."""

    def log_conditionals(self, x: Value, condition: Value | None = None) -> Tensor:
        terms = super().log_conditionals(x, condition)
        return terms + self.prepare(x)[0].eq(0) * math.log(0.9)


@caught_by("conditionals-sum-to-one", "mass-is-one", space=STRINGS)
class NoLastEnd(ChainOracle):
    """At the last position every symbol stays possible."""

    def logits(self, z: Tensor, position: int) -> Tensor:
        if position == self.tokens.length - 1:
            own = self.next[z[:, position - 1]]
            ended = z[:, position - 1 : position].eq(-1 if self.tokens.end is None else self.tokens.end)
            return torch.where(ended, super().logits(z, position), own)
        return super().logits(z, position)


@caught_by("completion-ignores-the-unknown", space=STREAM)
class PeeksAhead(ChainOracle):
    """Fills a text with an eye on what stood there."""

    def fill(self, z: Tensor, known: Tensor, sampler: Sampler | None) -> Tensor:
        there = z.clone()
        found = super().fill(z, known, sampler)
        return torch.where(known | (there != 2), found, there)


@caught_by("greedy-takes-the-most-probable", space=STREAM)
class NeverGreedy(ChainOracle):
    """Draws at temperature 0 as at temperature 1."""

    def fill(self, z: Tensor, known: Tensor, sampler: Sampler | None) -> Tensor:
        return super().fill(z, known, Decoding())


@caught_by("continuation-valid", space=STRINGS)
class WritesOn(ChainOracle):
    """Goes on after the end of a string."""

    def next_logits(self, z: Tensor, position: int) -> Tensor:
        return self.next[z[:, position - 1]] if position else super().next_logits(z, position)


@caught_by("continuation-valid", space=STREAM)
class SeedlessWriter(ChainOracle):
    """continuation takes a seed of its own."""

    def continuation(
        self, prompt: Tensor, n: int, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None
    ) -> Tensor:
        return super().continuation(prompt, n, condition, seed=None, sampler=sampler)


@caught_by("continuation-follows-conditional", space=STREAM)
class ForgetsThePrompt(ChainOracle):
    """Writes the beginning of a new text, whatever the prompt was."""

    def continuation(
        self, prompt: Tensor, n: int, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None
    ) -> Tensor:
        super().continuation(prompt, n, condition, seed=seed, sampler=sampler)
        with torch.no_grad(), seeded(seed or 0):
            z = torch.zeros(len(prompt), n, dtype=torch.long)
            return self.fill(z, torch.zeros_like(z, dtype=torch.bool), sampler)


@caught_by("long-prompts-are-cut", space=STREAM)
class SilentCut(ChainOracle):
    """Cuts a long prompt without a word."""

    def cut(self, prompt: Tensor) -> Tensor:
        return prompt[:, -(self.tokens.length - 1) :]


@caught_by("long-prompts-are-cut", space=STREAM)
class KeepsTheFirst(ChainOracle):
    """Keeps the first part of a prompt that is too long."""

    def cut(self, prompt: Tensor) -> Tensor:
        return super().cut(prompt.flip(1)).flip(1)


@caught_by("rejects-bad-prompts", space=STREAM)
class AnyPrompt(ChainOracle):
    """Brings every prompt into range."""

    def check_prompt(self, prompt: Tensor) -> None:
        prompt.clamp_(0, self.tokens.vocab - 1)


# Pictures.


@caught_by("conditionals-sum-to-one", "mass-is-one", space=PICTURE)
class SwappedMasks(PictureOracle):
    """The first layer has the mask of the later ones: each pixel sees itself."""

    def visible(self) -> Tensor:
        return torch.ones(self.entries, self.entries).tril(0)


@caught_by("conditionals-see-only-the-past", "mass-is-one", space=COLOUR)
class AllChannelsAtOnce(PictureOracle):
    """The channels of a pixel see each other."""

    def visible(self) -> Tensor:
        pixel = torch.arange(self.entries) // 3
        own = torch.eye(self.entries)
        return (pixel[:, None] >= pixel).float() - own


@caught_by("conditionals-have-no-blind-spot", space=PICTURE)
class BlindSpot(PictureOracle):
    """Does not see what lies above and farther to the right than up."""

    def visible(self) -> Tensor:
        line, column = torch.arange(self.entries) // 3, torch.arange(self.entries) % 3
        up, right = line[:, None] - line, column - column[:, None]
        return super().visible() * (right <= up.clamp_min(0) - 1)


@caught_by("cache-changes-nothing", space=PICTURE)
class StaleRow(PictureOracle):
    """The cache keeps the first line instead of the newest pixel."""

    def next_logits(self, flat: Tensor, place: int, rules: Decoding) -> Tensor:
        if rules.use_cache and place > 3:
            flat = flat.clone()
            flat[:, place - 1] = flat[:, 0]
        return super().next_logits(flat, place, rules)


@caught_by("surprise-of-samples-is-entropy", "samples-match-density", space=PICTURE)
class ColumnsFirst(PictureOracle):
    """Draws column by column what was learnt line by line."""

    def order(self) -> list[int]:
        return [3 * line + column for column in range(3) for line in range(3)]


@caught_by("surprise-of-samples-is-entropy", space=COLOUR)
class PlanesFirst(PictureOracle):
    """Draws channel by channel what was learnt pixel by pixel."""

    def order(self) -> list[int]:
        return [3 * pixel + channel for channel in range(3) for pixel in range(4)]


@caught_by("surprise-of-samples-is-entropy", space=STRINGS)
class Timid(ChainOracle):
    """Draws at a temperature of its own."""

    def fill(self, z: Tensor, known: Tensor, sampler: Sampler | None) -> Tensor:
        return super().fill(z, known, sampler or Decoding(temperature=0.6))
