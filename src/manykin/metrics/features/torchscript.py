"""A TorchScript file of the user's own choice as extractor; the one way to a number that is called FID."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manykin.data.limits import sha256_of_file
from manykin.errors import InvalidInput
from manykin.metrics.case import Case
from manykin.metrics.features.common import as_bytes, in_batches

INCEPTION = {"f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4": "inception-2015-12-05.pt"}
"""sha256 of files that hold the Inception network of the original FID: NVIDIA's TorchScript translation of TensorFlow's 2015-12-05 weights."""
LARGE_BATCH = 32
"""Pictures at once: the network may enlarge each, Inception to 299 x 299."""


class TorchScriptNetwork:
    """The network in a TorchScript file: an :class:`manykin.metrics.extractor.Extractor`.

    It is called with pictures (n, 3, height, width) of whole numbers from 0 to 255 at their own size (grey repeated three times, fewer levels
    stretched) and resizes and normalises them itself; Inception gets them as uint8, as its publishers feed it, any other network as float32.
    Where its ``forward`` has an argument ``return_features``, it is called with ``return_features=True``. It returns one row of features a
    picture, (n, d) or (n, d, 1, 1). Class probabilities are asked of Inception alone, with ``no_output_bias=True``, for its Inception Score.
    """

    def __init__(self, network: Any, digest: str, name: str, like_inception: bool, convert: Any) -> None:
        self._network, self._convert, self._bytes = network, convert, like_inception
        self._known = {argument.name for argument in network.forward.schema.arguments}
        self.hash, self.name, self.inception = digest, name, digest in INCEPTION

    def features(self, x: Tensor) -> Tensor:
        options = {"return_features": True} if "return_features" in self._known else {}
        return in_batches(x, lambda part: self._call(part, options), LARGE_BATCH)

    def probabilities(self, x: Tensor) -> Tensor | None:
        if not self._bytes or "no_output_bias" not in self._known:
            return None
        return in_batches(x, lambda part: self._call(part, {"no_output_bias": True}), LARGE_BATCH)

    def _call(self, part: Tensor, options: dict[str, bool]) -> Tensor:
        pictures = self._convert(part).contiguous()
        try:
            found = self._network(pictures.to(torch.uint8) if self._bytes else pictures, **options)
        except RuntimeError as error:
            raise InvalidInput(f"{self.name} cannot look at pictures of shape {tuple(pictures.shape)}: {_last_line(error)}. Expected a network that "
                               "takes (n, 3, height, width) of 0 to 255 and resizes them itself.") from error  # fmt: skip
        wrong = f"{type(found).__name__}" if not isinstance(found, Tensor) else f"{tuple(found.shape)} of {found.dtype}"
        if not isinstance(found, Tensor) or not found.is_floating_point() or found.dim() < 2 or found[0].numel() != found.shape[1] or \
                len(found) != len(part):  # fmt: skip
            raise InvalidInput(f"{self.name} returned {wrong} for {len(part)} pictures; expected floating features (n, d): export the network up to "
                               "its pooled layer.")  # fmt: skip
        return found.flatten(1)


def torchscript_network(path: Path, case: Case, named_inception: bool = False) -> TorchScriptNetwork:
    """Load a TorchScript file that the user names.

    TorchScript is code: load only files that you trust. Distances over it are called FID only where its sha256 is that of the published Inception
    file; ``inception:PATH`` feeds any other file as that one is fed, and results keep their own names.

    Raises:
        InvalidInput: where there is no such file, or it is no TorchScript, or its output cannot be used.
    """
    if not path.is_file():
        raise InvalidInput(f"features {str(path)!r}: there is no such file; expected a TorchScript file, 'own' or 'none'.")
    digest = sha256_of_file(path)
    try:
        with warnings.catch_warnings():
            # torch calls the format deprecated, and the published Inception file exists in no other.
            warnings.simplefilter("ignore", DeprecationWarning)
            network = torch.jit.load(path, map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise InvalidInput(
            f"{path} is not a TorchScript file ({_first_words(error)}); save the network with torch.jit.script(network).save(PATH)."
        ) from error
    inception = named_inception or digest in INCEPTION
    title = "Inception" if digest in INCEPTION else f"{path.name}, fed like Inception" if inception else path.name
    return TorchScriptNetwork(network, digest, f"{title} ({digest[:8]})", inception, as_bytes(case, path.name))


def _first_words(error: Exception) -> str:
    return str(error).strip().split("\n")[0].split(". ")[0][:200] or type(error).__name__


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".")[:200] if lines else type(error).__name__
