"""Weights between a model and safetensors files, checked by name, shape and type before any memory is taken."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.modules.module import register_module_buffer_registration_hook, register_module_parameter_registration_hook

from manykin.contract import GenerativeModel
from manykin.errors import CheckpointMismatch

_DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64, "U16": torch.uint16,
    "U32": torch.uint32, "U64": torch.uint64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
    "C64": torch.complex64,
}  # fmt: skip

_ANY = torch.bits8

Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and type of each tensor by name."""


def model_tensors(model: GenerativeModel, extra: Iterable[str] = ()) -> dict[str, Tensor]:
    """All that a model remembers: parameters and persistent buffers, and the buffers named besides."""
    tensors = dict(model.state_dict())
    for name in extra:
        tensors.setdefault(name, model.get_buffer(name))
    return {name: tensor.detach() for name, tensor in tensors.items()}


def layout(tensors: Mapping[str, Tensor]) -> Layout:
    """Shape and type of each tensor."""
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def read_layout(path: Path) -> Layout:
    """Shape and type of each tensor in a file, from its header alone.

    Raises:
        CheckpointMismatch: where the file is missing, truncated or not safetensors.
    """
    with opened(path) as file:
        names = file.keys()
        parts = {name: file.get_slice(name) for name in names}
        return {name: (tuple(part.get_shape()), _DTYPES.get(part.get_dtype(), _ANY)) for name, part in parts.items()}


def opened(path: Path) -> Any:
    """A safetensors file, open for reading.

    Raises:
        CheckpointMismatch: where it is missing, truncated or not safetensors.
    """
    try:
        return safe_open(str(path), framework="pt")
    except FileNotFoundError:
        raise CheckpointMismatch(f"{path} is missing: the run did not come to its end; the command that began it goes on with --resume.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointMismatch(f"{path} cannot be read: it is truncated or damaged ({str(error).splitlines()[0]}).") from error


def compare(found: Layout, expected: Layout, where: Path) -> None:
    """Refuse tensors that are not the expected ones.

    Raises:
        CheckpointMismatch: naming the first tensor that is missing, unknown, or of another shape or type.
    """
    for name, (shape, dtype) in expected.items():
        if name not in found:
            raise CheckpointMismatch(f"{where} has no tensor {name!r}, which this model needs; it is of another model or version.")
        if found[name] != (shape, dtype):
            raise CheckpointMismatch(f"{where}: tensor {name!r} is {_shown(found[name])}; this model needs {_shown((shape, dtype))}.")
    unknown = next((name for name in found if name not in expected), None)
    if unknown is not None:
        raise CheckpointMismatch(f"{where} holds the tensor {unknown!r}, which this model does not know; it is of another model or version.")


@torch.no_grad()
def read_into(path: Path, live: Mapping[str, Tensor]) -> None:
    """Fill tensors from a file, one at a time.

    Raises:
        CheckpointMismatch: where names, shapes or types differ; nothing has been changed then.
    """
    compare(read_layout(path), layout(live), path)
    with opened(path) as file:
        for name, tensor in live.items():
            tensor.copy_(file.get_tensor(name))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, in memory.

    Raises:
        CheckpointMismatch: where it is missing, truncated or not safetensors.
    """
    with opened(path) as file:
        names = file.keys()
        return {name: file.get_tensor(name).clone() for name in names}


def load_weights(model: GenerativeModel, path: Path, sizes: Mapping[str, int] | None = None) -> None:
    """Fill a model from a safetensors file.

    A model whose shapes depend on recorded ``sizes`` is first built without memory, so that a tampered size is refused before it is allocated.

    Raises:
        CheckpointMismatch: where the file is missing or damaged, or its tensors are not this model's; names the tensor.
    """
    if sizes and dict(sizes) != model.sizes:
        check_layout(lambda: type(model)(model.config, model.space, model.condition), read_layout(path), sizes, path)
        model.allocate(sizes)
    read_into(path, model_tensors(model))


def check_layout(build: Callable[[], GenerativeModel], stored: Layout, sizes: Mapping[str, int], path: Path) -> None:
    """Refuse a config or sizes that do not belong to the stored tensors, without taking memory for them.

    Args:
        build: constructs the model; called on the ``meta`` device.
        stored: the tensors of the file, from its header.
        sizes: what the config records.
        path: the file, for messages.

    Raises:
        CheckpointMismatch: naming the first size or tensor that does not fit.
    """
    most = max([1 << 16, *(torch.Size(shape).numel() for shape, _ in stored.values())])
    for key, value in sizes.items():
        if value > most:
            raise CheckpointMismatch(f"{path}: sizes.{key} = {value} in config.json does not fit the stored tensors (at most {most} entries).")
    try:
        with _counted(stored, path), torch.device("meta"):
            twin = build()
            twin.allocate(sizes)
    except KeyError as error:
        raise CheckpointMismatch(f"{path}: key 'sizes' in config.json has no {error}, which this model needs.") from error
    except (RuntimeError, NotImplementedError):
        return  # The constructor computes with values, which a tensor without memory does not have; the bound above has to do.
    # Types are compared once the model is real: constructors may choose theirs from values.
    compare({name: (shape, _ANY) for name, (shape, _) in stored.items()}, {name: (shape, _ANY) for name, (shape, _) in _of(twin).items()}, path)


@contextmanager
def _counted(stored: Layout, path: Path) -> Iterator[None]:
    """Stop a constructor that makes far more tensors than are stored: a tampered depth would keep it busy for hours."""
    thread, made, most = get_ident(), [0], 1000 + 8 * len(stored)

    def count(*_: object) -> None:
        made[0] += get_ident() == thread
        if made[0] > most:
            raise CheckpointMismatch(f"{path}: key 'model.config' in config.json makes more than {most} tensors; {len(stored)} are stored.")

    handles = [register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _of(model: GenerativeModel) -> Layout:
    return layout(model_tensors(model))


def _shown(entry: tuple[tuple[int, ...], torch.dtype]) -> str:
    return f"{'' if entry[1] is _ANY else str(entry[1]).removeprefix('torch.')}{list(entry[0])}"
