"""What a command computes with: device, number type, compiled graphs.

Promise: ``auto`` takes the fastest the machine offers; a choice the machine cannot honour is an error, never a silent
fallback to something slower or less exact. A function is compiled whole or not at all; a graph is for one shape of
inputs, so callers keep shapes equal from batch to batch.
"""

import importlib.util
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import ParamSpec, TypeVar

import torch

from lorat.shards.base.errors import UserError, unknown
from lorat.train.network.blocks.lorat import OneStream
from lorat.train.network.deploy.processor import Product, fast_dtype

P = ParamSpec("P")
R = TypeVar("R")
DEVICES = ("auto", "cpu", "cuda", "mps")
NUMBER_TYPES = ("auto", "float32", "bfloat16", "float16")


def pick_device(name: str = "auto") -> torch.device:
    """Return the device of a name, ``auto`` being CUDA, else MPS, else CPU; a ``UserError`` if unknown or not here."""
    if name not in DEVICES and not re.fullmatch(r"cuda:(0|[1-9][0-9]*)", name):
        raise unknown("device", name, DEVICES)
    has_cuda, has_metal = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if has_cuda else "mps" if has_metal else "cpu")
    kind, _, index = name.partition(":")
    if kind == "cuda" and not has_cuda:
        raise UserError("--device cuda: PyTorch sees no CUDA device here; use --device cpu or auto")
    if index and int(index) >= torch.cuda.device_count():
        there = f"this machine has {torch.cuda.device_count()} CUDA devices, counted from 0"
        raise UserError(f"--device {name}: {there}")
    if kind == "mps" and not has_metal:
        raise UserError("--device mps: PyTorch sees no Metal device here; use --device cpu or auto")
    return torch.device(name)


def pick_dtype(name: str, device: torch.device, network: OneStream, *, training: bool = False) -> torch.dtype:
    """Return the number type called ``auto``, ``float32``, ``bfloat16`` or ``float16`` for a network on `device`.
    ``auto`` is bfloat16 on CUDA devices that compute in it (on older ones float16, in training float32), what is
    measured to be fast on a CPU, for a network of these shapes, and float32 elsewhere. Float16 on a CPU is exact
    enough but slow, so that it has to be asked for. A ``UserError`` tells of an unknown name, or bfloat16 on a Mac
    that lacks it.
    """
    if name not in NUMBER_TYPES:
        raise unknown("number type", name, NUMBER_TYPES)
    if name == "bfloat16" and device.type == "mps" and not torch.backends.mps.is_macos_or_newer(14, 0):
        raise UserError("--dtype bfloat16: Metal has it from macOS 14 on; use float16 or float32")
    if name != "auto":
        named: torch.dtype = getattr(torch, name)
        return named
    if device.type == "cpu":
        return fast_dtype(Product.of(network))
    if device.type != "cuda":
        return torch.float32
    # is_bf16_supported() also says yes where it is only emulated, hence the generation.
    if torch.cuda.get_device_capability(device)[0] >= 8:
        return torch.bfloat16
    # Training in float16 would need its gradients scaled.
    return torch.float32 if training else torch.float16


def catch_up(device: torch.device) -> None:
    """Wait until a device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def caught_up(device: torch.device, seconds: float) -> bool:
    """Return whether a device has done what it was asked for within so long: one that waits for another has not."""
    done = threading.Event()

    def wait() -> None:
        catch_up(device)
        done.set()

    threading.Thread(target=wait, daemon=True).start()
    return done.wait(seconds)


def check_compiler(device: torch.device) -> None:
    """Refuse (``UserError``) to compile for `device` where the C++ compiler (CPU) or triton (CUDA) is missing."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise UserError("compiling for CUDA needs the package triton; install it or do not compile")
    command = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if device.type == "cpu" and shutil.which(command) is None:
        why = f"compiling for the CPU needs a C++ compiler, and there is no {command} here"
        raise UserError(f"{why}; install one, name one in CXX, or do not compile")


def compile_whole(function: Callable[P, R], device: torch.device) -> Callable[P, R]:
    """Return `function` compiled into one graph for each shape of its inputs, after `check_compiler`."""
    check_compiler(device)
    return torch.compile(function, fullgraph=True, dynamic=False)


def compile_backward(
    module: torch.nn.Module, device: torch.device, mode: str
) -> Callable[[], AbstractContextManager[None]]:
    """Compile a module's forward pass in place and return the context in which its backward pass is compiled, whole,
    with what DDP does there if it is `traceable`. A ``UserError`` if this PyTorch or `device` cannot.
    """
    check_compiler(device)
    from torch._dynamo import compiled_autograd

    enable = getattr(compiled_autograd, "_enable", None)  # PyTorch has no public name for it
    if enable is None:
        raise UserError(f"train.compiled_autograd: PyTorch {torch.__version__} has it not; set it to false")
    module.compile(dynamic=False, mode=mode)
    # CUDA graphs of the forward pass are not gone on from by another compiler.
    backward = torch.compile(fullgraph=True, dynamic=False, mode=mode.replace("reduce-overhead", "default"))
    return partial(enable, backward, dynamic=False)
