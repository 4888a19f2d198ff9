"""Functions as one compiled graph each (``torch.compile``), and what that needs of a machine.

Promise: a function is compiled whole or an error says why; nothing falls back to running piece by
piece. A graph is for one shape of inputs, so callers keep shapes equal from batch to batch.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from lorat.shards.base.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")


def check_compiler(device: torch.device) -> None:
    """See that PyTorch can compile for `device` here.

    Raises:
        UserError: if the C++ compiler (CPU) or triton (CUDA) is missing.
    """
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise UserError("compiling for CUDA needs the package triton; install it or do not compile")
    command = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if device.type == "cpu" and shutil.which(command) is None:
        raise UserError(
            f"compiling for the CPU needs a C++ compiler, and there is no {command} here; install "
            "one, name one in CXX, or do not compile"
        )


def compile_whole(function: Callable[P, R], device: torch.device) -> Callable[P, R]:
    """Return `function` compiled into one graph for each shape of its inputs.

    Raises:
        UserError: if nothing can be compiled here.
    """
    check_compiler(device)
    return torch.compile(function, fullgraph=True, dynamic=False)
