"""Weight files as named tensors: reading them safely, comparing names, writing them whole.

A file is recognised by its first bytes, not by its suffix: published files called ``.bin`` hold
safetensors. Nothing is unpickled but tensors. A file that is written is either complete or absent.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lorat.shards.errors import UserError
from lorat.shards.storage import atomic_file

__all__ = ["check_tensors", "read_tensors", "write_tensors"]


# What PyTorch's restricted loader raises for files that are not its own, text among them.
_DAMAGED = (
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    pickle.UnpicklingError,
)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a file's tensors by name and its metadata (empty for PyTorch's own format).

    Raises:
        UserError: if the file is missing, damaged, or holds something else.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if head[8:9] == b"{":
        return _read_safetensors(path)
    return _read_pytorch(path), {}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except SafetensorError as error:
        raise UserError(f"{path}: damaged safetensors file ({error}); fetch it again") from error


def _read_pytorch(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:  # by name, PyTorch would go by the suffix
            state = torch.load(file, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        raise UserError(
            f"{path}: neither a safetensors file nor a PyTorch file of plain tensors, or damaged"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path}: not a table of named tensors; give a file of weights only")
    return {str(name): tensor for name, tensor in state.items()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all."""
    with atomic_file(path) as file:
        file.write(save(dict(tensors), metadata=dict(metadata)))


def check_tensors(
    source: Path | str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> None:
    """Compare names and shapes.

    Raises:
        UserError: lists missing, unexpected and misshapen tensors by name.
    """
    shapes = (
        f"{name} {tuple(found[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in found.keys() & expected.keys()
        if found[name].shape != expected[name].shape
    )
    problems = {
        "missing": expected.keys() - found.keys(),
        "unexpected": found.keys() - expected.keys(),
        "misshapen": set(shapes),
    }
    text = "; ".join(f"{kind}: {_list(names)}" for kind, names in problems.items() if names)
    if text:
        raise UserError(f"{source}: weights of another network ({text}); check variant and file")


def _list(names: Iterable[str], limit: int = 8) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + more
