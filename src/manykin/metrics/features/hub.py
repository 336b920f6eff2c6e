"""A picture network from the Hugging Face hub, such as DINOv2, as extractor, through the extra ``hub``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from manykin.errors import InvalidInput, MissingExtra
from manykin.metrics.case import Case
from manykin.metrics.features.common import as_bytes, in_batches, weights_hash

SIDE = 224
BATCH = 32
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Moments of ImageNet's colours, which DINOv2 and most networks for photographs were trained with."""


class HubNetwork:
    """A vision network of ``transformers``: an :class:`manykin.metrics.extractor.Extractor`.

    Pictures are stretched to 0 ... 255, grey is repeated three times, resized to 224 x 224 (bicubic with antialiasing, the whole picture, no
    crop) and normalised by ImageNet's moments. Features are the class token of the last layer, or the pooled layer of a convolutional network.
    ``revision`` is the commit on the hub, None for a local folder.
    """

    inception = False

    def __init__(self, network: Any, name: str, revision: str | None, convert: Callable[[Tensor], Tensor]) -> None:
        self._network, self._convert = network, convert
        self.revision = revision
        self.hash = weights_hash({key: value for key, value in network.state_dict().items() if not key.startswith("pooler.")})
        self.name = f"{name}{f'@{revision[:8]}' if revision else ''} ({self.hash[:8]})"

    def features(self, x: Tensor) -> Tensor:
        return in_batches(x, self._call, BATCH)

    def probabilities(self, x: Tensor) -> Tensor | None:
        return None

    def _call(self, part: Tensor) -> Tensor:
        pictures = functional.interpolate(self._convert(part), (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255) / 255
        mean, spread = (torch.tensor(each)[:, None, None] for each in (MEAN, SPREAD))
        try:
            output = self._network(pixel_values=(pictures - mean) / spread)
        except (RuntimeError, ValueError, TypeError) as error:
            raise InvalidInput(f"{self.name} cannot look at pictures of {SIDE} x {SIDE}: {str(error).splitlines()[0][:200]}. "
                               "Use a vision network such as facebook/dinov2-small.") from error  # fmt: skip
        last = getattr(output, "last_hidden_state", None)
        found = last[:, 0] if isinstance(last, Tensor) and last.dim() == 3 else getattr(output, "pooler_output", None)
        if not isinstance(found, Tensor) or found[0].numel() != found.shape[1]:
            raise InvalidInput(f"{self.name} yields no class token and no pooled layer; use a vision network such as facebook/dinov2-small.")
        return found.flatten(1)


def hub_network(name: str, case: Case) -> HubNetwork:
    """Load a network by its id on the hub (``facebook/dinov2-small``, or ``ID@REVISION``), or from a local folder that holds it.

    Weights come as safetensors only, and no code of the repository is run.

    Raises:
        MissingExtra: where ``transformers`` is not installed.
        InvalidInput: where the id, the revision or the folder does not exist, cannot be reached, or holds no vision network as safetensors.
    """
    try:
        from transformers import AutoModel
        from transformers.utils import logging
    except ImportError as error:
        raise MissingExtra(f'features {name!r} come from the Hugging Face hub, which needs transformers: pip install "manykin[hub]".') from error
    source, _, revision = (name, "", "") if Path(name).is_dir() else name.partition("@")
    local = Path(source).is_dir()
    loud, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        network, report = AutoModel.from_pretrained(
            source, revision=revision or "main", use_safetensors=True, trust_remote_code=False, output_loading_info=True, dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")[:200] if str(error).strip() else type(error).__name__
        raise InvalidInput(f"features {name!r} could not be loaded: {reason}. Expected the id of a vision network with safetensors weights on the "
                           "hub (and a connection), or a local folder that holds one.") from error  # fmt: skip
    finally:
        logging.set_verbosity(loud)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise InvalidInput(f"features {name!r}: {missing[0]!r} and {len(missing) - 1} more weights are missing in the file, so the network would be "
                           "partly random; use a complete one.")  # fmt: skip
    title = Path(source).resolve().name if local else source
    return HubNetwork(network.eval().requires_grad_(False), title, getattr(network.config, "_commit_hash", None), as_bytes(case, title))
