"""The register of broken models: each with the checks that must catch it."""

from collections.abc import Callable
from dataclasses import dataclass

from manykin.contract import GenerativeModel
from manykin.spaces import Space, Vector


@dataclass(frozen=True)
class Broken:
    """A deliberately wrong model: its class (whose docstring names the mistake), its spaces, and the checks that must catch it."""

    kind: type[GenerativeModel]
    caught_by: tuple[str, ...]
    space: Space
    condition: Space | None = None

    @property
    def mistake(self) -> str:
        """The mistake in a sentence."""
        return (self.kind.__doc__ or "").strip().split("\n")[0]

    def make(self) -> GenerativeModel:
        """A new instance."""
        return self.kind(None, self.space, self.condition)


BROKEN: dict[str, Broken] = {}
"""Every broken model by the name of its class."""


def caught_by(*checks: str, space: Space | None = None, condition: Space | None = None) -> Callable[[type[GenerativeModel]], type[GenerativeModel]]:
    """Register the decorated class as wrong in a way that each of these checks must notice."""

    def register(kind: type[GenerativeModel]) -> type[GenerativeModel]:
        BROKEN[kind.__name__] = Broken(kind, checks, space or Vector(2), condition)
        return kind

    return register
