"""A fitted model with the memory of what the user's data looked like: arrays in, arrays out; frames in, frames out."""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor
from torch.distributions import Distribution

from manykin import latentspace
from manykin.completion import complete_texts, partial_rows
from manykin.contract import Completes, Decodes, Density, Encodes, GenerativeModel, Inspects, Sampler
from manykin.data.dataset import Dataset, Rows
from manykin.data.forms import Form
from manykin.errors import CheckpointMismatch, InvalidInput, ManykinWarning, Unsupported
from manykin.models import get, name_of
from manykin.random import hash_seed
from manykin.spaces import Labels, Space, Tokens, Value, count, space_from_json, take
from manykin.training import RunFolder
from manykin.training.layout import extent

T = TypeVar("T")

CHUNK = 4096
"""Rows that ``log_prob`` and its kin work on at a time."""


@dataclass
class Fitted:
    """A model that has learned, seen from the user's side.

    Everything that takes data takes the user's own kind (array, tensor, DataFrame, pictures, strings) and gives the same kind back.
    """

    model: GenerativeModel
    name: str
    form: Form = field(default_factory=Form)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    training: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    folder: Path | None = None
    data: Dataset | None = field(default=None, repr=False)

    @property
    def space(self) -> Space:
        """The data space."""
        return self.model.space

    @property
    def condition(self) -> Space | None:
        """The space of conditions; None for an unconditional model."""
        return self.model.condition

    @property
    def density(self) -> Density | None:
        """What :meth:`log_prob` is: exact, a bound, an estimate, unnormalised, or None where there is none."""
        return self.model.density

    def sample(self, n: int = 1, condition: Any = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Any:
        """Draw n examples in the form of the training data; see :meth:`GenerativeModel.sample`.

        Args:
            n: how many.
            condition: one label (by the user's own name) or value for all, or n of them; None draws labels from their training frequencies.
            seed: for repeatable draws.
            sampler: one of the model's samplers.
        """
        if condition is None and isinstance(self.condition, Labels):
            warnings.warn("labels are drawn by their training frequencies; give a condition to choose them.", ManykinWarning, stacklevel=2)
        return self.form.decode(self.model.sample(n, self.encode_condition(condition), seed=seed, sampler=sampler), self.space)

    def log_prob(self, x: Any, condition: Any = None, *, seed: int = 0) -> Any:
        """Log density of each example in nats and in the user's own units, shape (n,); :attr:`density` says what kind of number it is.

        A numpy array comes back, or a tensor where a tensor was given.
        """
        values = self.form.encode(x, self.space)
        c = self._conditions(condition, count(values))
        with torch.no_grad():
            parts = [
                self.model.log_prob(take(values, rows), None if c is None else take(c, rows), seed=_chunk_seed(seed, rows))
                for rows in _chunks(count(values))
            ]
        return _like(torch.cat(parts), x)

    def marginal_log_prob(self, x: Any, *, seed: int = 0) -> Any:
        """log p(x) of a model conditional on labels, summed over the classes by their training frequencies, shape (n,)."""
        values = self.form.encode(x, self.space)
        with torch.no_grad():
            parts = [self.model.marginal_log_prob(take(values, rows), seed=_chunk_seed(seed, rows)) for rows in _chunks(count(values))]
        return _like(torch.cat(parts), x)

    def encode(self, x: Any, condition: Any = None) -> Distribution:
        """The distribution over latents given x: flows, VAEs, responsibilities of mixtures."""
        values = self.form.encode(x, self.space)
        return cast(Encodes, self._able(Encodes, "encode")).encode(values, self._conditions(condition, count(values)))

    def latents(self, n: int, *, seed: int | None = None) -> Tensor:
        """n draws from the prior over latents."""
        return cast(Decodes, self._able(Decodes, "decode")).latents(n, seed)

    def decode(self, h: Tensor, condition: Any = None) -> Any:
        """What latents stand for, in the form of the training data."""
        with torch.no_grad():
            x = cast(Decodes, self._able(Decodes, "decode")).decode(h, self._conditions(condition, len(h)))
        return self.form.decode(x, self.space)

    def interpolate(self, a: Any, b: Any, steps: int = 8, condition: Any = None, *, path: Literal["linear", "spherical"] = "linear") -> Any:
        """Walk from examples a to examples b through the latent space: ``steps`` examples a pair, both ends included, one pair after the other."""
        start, end = self.form.encode(a, self.space), self.form.encode(b, self.space)
        x = latentspace.interpolate(self.model, start, end, steps, self._conditions(condition, count(start)), path)
        return self.form.decode(x, self.space)

    def traverse(self, x: Any, unit: int, values: Any = None, condition: Any = None) -> Any:
        """Examples like x but for one entry of the latent, which takes each of ``values`` (3 deviations to either side where None), row after row."""
        start = self.form.encode(x, self.space)
        chosen = None if values is None else torch.as_tensor(values, dtype=torch.float64)
        return self.form.decode(latentspace.traverse(self.model, start, unit, chosen, self._conditions(condition, count(start))), self.space)

    def complete(
        self, x: Any, known: Any = None, condition: Any = None, *, n: int | None = None, seed: int | None = None, sampler: Sampler | None = None
    ) -> Any:  # fmt: skip
        """Fill in what is not known by draws given what is; go on with texts.

        Args:
            x: examples in the form of the training data; entries that are not known may hold anything, NaN included. Of texts the beginnings: a
                string or a list of strings, which come back with what follows.
            known: boolean, of the shape of x; None takes every entry of x that is not NaN as known. Not for texts.
            condition: as in :meth:`sample`.
            n: texts only: how many characters (or bytes) to write; None: 200, or of separate strings as many as fit.
            seed: for repeatable draws.
            sampler: one of the model's samplers.

        Raises:
            InvalidInput: for values that the training data could not hold, or ``n`` and ``known`` where they do not apply.
        """
        if isinstance(self.space, Tokens) and known is None:
            c = self.encode_condition(condition)
            return complete_texts(self.model, x, n, c, self.form, self.name, seed=seed, sampler=sampler)
        if n is not None:
            raise InvalidInput(f"n = {n!r} is for texts, which go on for n symbols without a mask; leave it out.")
        model = cast(Completes, self._able(Completes, "complete"))
        values, mask = partial_rows(x, known, self.form, self.space, self.name)
        c = self._conditions(condition, count(values))
        with torch.no_grad():
            return self.form.decode(model.complete(values, mask, c, seed=seed, sampler=sampler), self.space)

    def parameters_table(self) -> dict[str, Any]:
        """Fitted parameters under scikit-learn's names, as numpy arrays."""
        return {name: value.detach().cpu().numpy() for name, value in cast(Inspects, self._able(Inspects, "inspect")).parameters_table().items()}

    def save_pretrained(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the model as a run folder: ``config.json``, ``model.safetensors`` and a model card.

        Raises:
            InvalidInput: where the folder exists and is not empty, unless ``force``.
        """
        run = RunFolder.create(path, force=force)
        run.write_config(self.describe())
        run.save_model(self.model)
        run.write_card(self.card())
        return run.path

    def push_to_hub(self, repo_id: str, *, private: bool = False, commit_message: str = "Upload model") -> str:
        """Upload the run folder to the Hugging Face hub and return its address. Warns where it holds training rows or category strings."""
        import tempfile

        from huggingface_hub import HfApi

        if self.model.stores_rows:
            warnings.warn(f"{self.name} keeps training rows inside model.safetensors: they are published with it.", ManykinWarning, stacklevel=2)
        texts = [column.name for column in getattr(self.space, "columns", ()) if any(isinstance(value, str) for value in column.categories)]
        if texts:
            warnings.warn(
                f"config.json holds the categories of column {texts[0]!r} as text: they are published with it.", ManykinWarning, stacklevel=2
            )
        with tempfile.TemporaryDirectory() as scratch:
            folder = self.save_pretrained(Path(scratch) / "model")
            api = HfApi()
            api.create_repo(repo_id, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message))

    def describe(self) -> dict[str, Any]:
        """The content of ``config.json``: all that is needed to build the model again, and where it came from."""
        return {
            "model": {"name": self.name, "config": self.model.config.to_json()},
            "space": self.space.to_json(),
            "condition": None if self.condition is None else self.condition.to_json(),
            "sizes": dict(self.model.sizes),
            "transform": self.model.transform.describe(),
            "form": self.form.to_json(),
            "training": dict(self.training),
            "seed": self.seed,
            "data": dict(self.provenance),
            "result": dict(self.result),
        }

    def card(self) -> str:
        """The model card, Markdown with the hub's header."""
        from manykin.card import render

        return render(self.name, self.model, self.describe())

    def test_rows(self) -> Rows | None:
        """Held-out rows of the data that this model was fitted on, where it is still at hand: test, else validation."""
        return None if self.data is None else self.data.test or self.data.val

    def encode_condition(self, condition: Any) -> Value | None:
        """A condition as the user names it (a label, a list of labels, an array) as tensors of the condition's space.

        Raises:
            InvalidInput: for a label that the model has not seen, with the labels that it knows.
        """
        space = self.condition
        if condition is None or space is None or (isinstance(condition, Tensor) and condition.dim() == len(space.shape) + 1):
            return cast(Value | None, condition)
        if isinstance(space, Labels):
            return _labels(condition, space)
        values = torch.as_tensor(condition, dtype=torch.float32)
        return values[None] if values.dim() == len(space.shape) else values

    def _conditions(self, condition: Any, n: int) -> Value | None:
        return self.model.check_condition(self.encode_condition(condition), n)

    def _able(self, protocol: type, verb: str) -> GenerativeModel:
        if not isinstance(self.model, protocol):
            raise Unsupported(f"{self.name} cannot {verb}; `manykin models` lists the models that can.")
        return self.model


def from_pretrained(path: str | Path, *, revision: str | None = None, token: str | None = None) -> Fitted:
    """Load a run folder, or a repository of the Hugging Face hub by its id.

    Args:
        path: a folder, or ``owner/name`` where no such folder exists.
        revision: branch, tag or commit of a hub repository.
        token: access token for a private repository.

    Raises:
        InvalidInput: no such folder.
        CheckpointMismatch: a damaged, foreign or newer folder; the message names the key or file.
    """
    run = RunFolder(_resolve(path, revision, token))
    config = run.read_config()
    file = run.path / "config.json"
    name = str(_key(config, "model", "name"))
    cls = _read(file, "model.name", lambda: get(name))
    options = _read(file, "model.config", lambda: cls.config_class.from_json(_key(config, "model", "config")))
    form = _read(file, "form", lambda: Form.from_json(_key(config, "form")))
    spaces = {key: _read(file, key, lambda key=key: space_from_json(config[key], key)) for key in ("space", "condition") if config[key] is not None}  # type: ignore[misc]
    numbers = {f"model.config.{key}": value for key, value in options.to_json().items() if isinstance(value, int)}
    run.check_entries({key: extent(space) for key, space in spaces.items()} | numbers)
    model = _read(file, "model", lambda: run.load_model(lambda: cls(options, spaces["space"], spaces.get("condition"))))
    return Fitted(
        model,
        name,
        form,
        config.get("data", {}),
        config.get("seed", 0),
        config.get("training", {}),
        config.get("result") or {},
        run.metrics(),
        run.path,
    )


def _read(file: Path, key: str, build: Callable[[], T]) -> T:
    """What ``config.json`` describes under a key.

    Raises:
        CheckpointMismatch: naming the key, where it cannot be built.
    """
    try:
        return build()
    except (ValueError, TypeError, KeyError, RuntimeError, MemoryError, OverflowError, RecursionError) as error:
        reason = (str(error).splitlines() or [""])[0][:300] or type(error).__name__
        raise CheckpointMismatch(f"{file}: key {key!r} does not describe a model that this version can build: {reason}") from error


def wrap(model: GenerativeModel, name: str | None = None) -> Fitted:
    """A bare model as a :class:`Fitted` whose data are tensors."""
    return Fitted(model, name or name_of(type(model)) or type(model).__name__)


def _resolve(path: str | Path, revision: str | None, token: str | None) -> Path:
    folder = Path(path).expanduser()
    if folder.exists() or str(path).count("/") != 1 or str(path).startswith((".", "/", "~")):
        if not folder.is_dir():
            raise InvalidInput(f"{str(path)!r} is not a run folder; expected a folder with config.json and model.safetensors.")
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        patterns = ["config.json", "*.safetensors", "README.md"]
        return Path(snapshot_download(str(path), revision=revision, token=token, allow_patterns=patterns))
    except (RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise InvalidInput(f"{str(path)!r} is neither a folder here nor a model on the hub that can be reached ({type(error).__name__}).") from error


def _key(config: Mapping[str, Any], *path: str) -> Any:
    value: Any = config
    for step in path:
        if not isinstance(value, Mapping) or step not in value:
            raise CheckpointMismatch(f"config.json has no key {'.'.join(path)!r}: it is damaged, or not of a manykin run.")
        value = value[step]
    return value


def _labels(condition: Any, space: Labels) -> Tensor:
    names = list(space.names) if space.names is not None else list(range(space.classes))
    codes = {str(name): code for code, name in enumerate(names)}
    given = condition if isinstance(condition, (list, tuple)) else condition.tolist() if hasattr(condition, "tolist") else [condition]
    values = given if isinstance(given, (list, tuple)) else [given]
    found = []
    for value in values:
        key = str(int(value)) if isinstance(value, float) and math.isfinite(value) and value == int(value) and str(value) not in codes else str(value)
        if key not in codes:
            shown = ", ".join(list(codes)[:20]) + (", ..." if len(codes) > 20 else "")
            raise InvalidInput(f"condition {value!r} is not a label of this model; expected one of {shown}.")
        found.append(codes[key])
    return torch.tensor(found, dtype=torch.long)


def _chunks(n: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]


def _chunk_seed(seed: int, rows: slice) -> int:
    """A seed of its own for every chunk, the user's own for the first."""
    return hash_seed(seed, rows.start) if rows.start else seed


def _like(result: Tensor, given: Any) -> Any:
    return result if isinstance(given, Tensor) else result.cpu().numpy()


__all__ = ["Fitted", "from_pretrained", "wrap"]
