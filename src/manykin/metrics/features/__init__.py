"""Feature networks for pictures: the own one, a TorchScript file, or one from the hub; frozen, hashed and named in every result."""

from pathlib import Path

from manykin.errors import InvalidInput
from manykin.metrics.case import Case
from manykin.metrics.extractor import Extractor

__all__ = ["choose_extractor"]

EXPECTED = "expected own, own:SEED, none, the path of a TorchScript file, inception:PATH, or a hub id such as facebook/dinov2-small"
SUFFIXES = (".pt", ".pth", ".ts", ".torchscript", ".jit")


def choose_extractor(features: str | Extractor, case: Case, data: str) -> Extractor | None:
    """The network that looks at pictures.

    - ``own``: a small network trained on the training rows of the case (:func:`manykin.metrics.features.own.own_network`); ``own:3`` with seed 3.
    - ``none``: None; metrics work on pixels.
    - the path of a file: TorchScript (:func:`manykin.metrics.features.torchscript.torchscript_network`). Called Inception where its sha256 is that
      of NVIDIA's file; ``inception:PATH`` feeds another file in the same way.
    - a hub id, ``OWNER/NAME`` or ``OWNER/NAME@REVISION``, or a local folder with ``config.json``
      (:func:`manykin.metrics.features.hub.hub_network`).
    - an :class:`manykin.metrics.extractor.Extractor`: itself.

    Args:
        features: one of these.
        case: what it shall look at.
        data: what messages call the data.

    Raises:
        InvalidInput: for an unknown word or a missing file, for data that are no pictures, and where the own network cannot be trained.
        MissingExtra: for a hub id where ``transformers`` is not installed.
    """
    if not isinstance(features, str):
        if isinstance(features, Extractor):
            return features
        raise InvalidInput(
            f"features is a {type(features).__name__}; {EXPECTED}, or an object with features, probabilities, name, hash and inception."
        )
    if features == "none":
        return None
    if not case.pictures:
        raise InvalidInput(f"features {features!r} are for pictures, and {data} holds {case.space}; use features='none'.")
    word, _, rest = features.partition(":")
    if word == "own":
        from manykin.metrics.features.own import own_network

        if not (rest.isdecimal() or features == "own"):
            raise InvalidInput(f"features {features!r}: {rest!r} is no seed; expected own, or own:SEED such as own:3.")
        return own_network(case, data, int(rest or 0))
    named = word == "inception" and rest != ""
    path = Path(rest if named else features).expanduser()
    if named or path.is_file() or path.suffix in SUFFIXES:
        from manykin.metrics.features.torchscript import torchscript_network

        return torchscript_network(path, case, named)
    if (path / "config.json").is_file() or (features.count("/") == 1 and not features.startswith((".", "/", "~"))):
        from manykin.metrics.features.hub import hub_network

        return hub_network(str(path), case)
    raise InvalidInput(f"features {features!r} are not known, and there is no such file; {EXPECTED}.")
