"""Weight files as named tensors: reading them safely, comparing names, writing them whole.

A file is recognised by its first bytes, not by its suffix: published files called ``.bin`` hold safetensors. Nothing is
unpickled but tensors. Where the format allows it, tensors stay in the file until they are used (mapped, private:
writing to them does not change the file), so that processes of one machine share what they read.
"""

import pickle
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lorat.shards.base.disk import check_apart, check_can_write, enduring
from lorat.shards.base.errors import UserError, some
from lorat.shards.base.storage import atomic_file
from lorat.train.network.weights.naming import TYPES, last_block

_PYTORCH = (".pth", ".pt")
_LEVELS = ("model", "state_dict", "teacher")  # tables of tensors inside a file of a training; DINO's teacher is used
_SUFFIXES = (".safetensors", ".bin", *_PYTORCH)  # what readers of published files go by

# What PyTorch's restricted loader raises for files that are not its own, text among them.
_DAMAGED = (RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, pickle.UnpicklingError)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a file's tensors by name and its metadata (empty for PyTorch's own format). Of a PyTorch file whose
    tensors stand further down, under ``model``, ``state_dict`` or ``teacher``, that table is returned. A ``UserError``
    names a file that is missing, damaged, or holds something else.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if head[8:9] != b"{":
            return _read_pytorch(path, zipped=head.startswith(b"PK")), {}
        with safe_open(path, framework="pt") as safe:
            tensors = {name: safe.get_tensor(name) for name in safe.keys()}  # noqa: SIM118
            return tensors, dict(safe.metadata() or {})
    except SafetensorError as error:
        raise UserError(f"{path}: damaged safetensors file ({error}); fetch it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def read_joined(path: Path, before: Sequence[Path]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return what `read_tensors` does, with what the file lacks of those `before`; a ``UserError`` names one that adds
    nothing, or whose pairs have another scale, since a network has one.
    """
    tensors, metadata = read_tensors(path)
    for earlier in reversed(before):
        added, about = read_tensors(earlier)
        if added.keys() <= tensors.keys():
            raise UserError(f"{earlier}: holds nothing that {path} lacks; give one of them")
        for key in sorted(metadata.keys() & about.keys() & {"lora_alpha", "lora_rslora"}):
            if about[key] != metadata[key]:
                what = f"its pairs have {key} {about[key]}, those of {path} {metadata[key]}"
                raise UserError(f"{earlier}: {what}; give phases of one scale")
        tensors = added | tensors
    return tensors, metadata


def _read_pytorch(path: Path, zipped: bool) -> dict[str, Tensor]:
    try:
        if zipped and path.suffix != ".safetensors":
            state = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
        else:
            with path.open("rb") as file:  # by name, PyTorch would go by the suffix
                state = torch.load(file, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        what = "neither a safetensors file nor a PyTorch file of plain tensors, or damaged"
        raise UserError(f"{path}: {what}; fetch it again, or save its weights alone") from error
    while isinstance(state, dict):
        inner = next((state[name] for name in _LEVELS if isinstance(state.get(name), dict)), None)
        if inner is None:
            break
        state = inner
    if isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values()):
        return {str(name): tensor.detach() for name, tensor in state.items()}
    held = f" (it holds {some(sorted(map(str, state)), 6)})" if isinstance(state, dict) else ""
    raise UserError(f"{path}: not a table of named tensors{held}; give a file of weights only")


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Hash names, shapes and float32 values, in the order of names."""
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)};".encode())
        digest.update(tensor.contiguous().numpy().data)
    return f"xxh3:{digest.hexdigest()}"


def check_writable(path: Path, overwrite: bool, sources: Collection[Path] = ()) -> None:
    """Refuse (``UserError``) a file whose suffix is none that readers go by, that is one of the `sources`, that exists,
    or that no disk takes.
    """
    check_apart(path, sources)
    if path.suffix not in _SUFFIXES:
        raise UserError(f"{path}: readers go by the suffix; end the name in one of {', '.join(_SUFFIXES)}")
    if path.exists() and not overwrite:
        raise UserError(f"{path}: exists; give another --out, or --overwrite")
    check_can_write(path)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a file, whole or not at all: ``.pth`` and ``.pt`` by PyTorch, without metadata, others as safetensors."""
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_file(path) as file:
        if path.suffix in _PYTORCH:
            # Cloned: of a view, PyTorch would write the whole tensor that it is a part of.
            with enduring(file) as taking:
                torch.save({name: tensor.clone() for name, tensor in own.items()}, taking)
        else:
            file.write(save(own, metadata=dict(metadata)))


def check_tensors(
    source: Path | str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], shown: Callable[[str], str] = str
) -> None:
    """Compare names and shapes; a ``UserError`` lists missing, unexpected and misshapen tensors of `source` by name.
    What is expected may be on any device. `shown` maps a name to what the user's file calls it.
    """
    problems = {
        "missing": [shown(name) for name in expected.keys() - found.keys()],
        "unexpected": [shown(name) for name in found.keys() - expected.keys()],
        "misshapen": [
            f"{shown(name)} {tuple(found[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in found.keys() & expected.keys()
            if found[name].shape != expected[name].shape
        ],
    }
    text = "; ".join(f"{kind}: {some(sorted(names), 8)}" for kind, names in problems.items() if names)
    if text:
        raise UserError(f"{source}: {_misfit(found, expected)} ({text}); check variant and file")


def _misfit(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Say in words what kind of weights those `found` are, compared with the `expected`."""
    if TYPES in expected and TYPES not in found:
        return "no tracker's weights, which have token types (a backbone's go to --backbone)"
    if found.keys().isdisjoint(expected):
        return "weights under names that are not known here"
    norms = [name for name in (TYPES, "blocks.0.norm1.weight") if name in found and name in expected]
    sizes = {
        "blocks": [last_block(names) + 1 for names in (found, expected)],
        "channels": [table[norms[0]].shape[-1] for table in (found, expected) if norms],
    }
    if others := [f"{own[0]} {what} instead of {own[1]}" for what, own in sizes.items() if len(set(own)) == 2]:
        return f"weights of a network of {' and '.join(others)}"
    if found.keys() < expected.keys() and all(found[name].shape == expected[name].shape for name in found):
        return "weights of a part of the network"
    return "weights of another network"
