"""Which device and which number type a command computes with.

Promise: ``auto`` takes the fastest the machine offers; a choice the machine cannot honour is an
error, never a silent fallback to something slower or less exact.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

from lorat.shards.base.errors import UserError, unknown

DEVICES = ("auto", "cpu", "cuda", "mps")
NUMBER_TYPES = ("auto", "float32", "bfloat16", "float16")

_CPU_INFO = Path("/proc/cpuinfo")
# The two x86 extensions that multiply bfloat16 matrices in hardware, as Linux names them.
_BFLOAT16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})


@lru_cache(maxsize=1)
def _cpu_flags() -> frozenset[str]:
    """Return the processor's extensions as Linux lists them; empty on other systems."""
    if not _CPU_INFO.is_file():
        return frozenset()
    for line in _CPU_INFO.read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def cpu_number_type() -> torch.dtype:
    """Return bfloat16 where the processor has AMX or AVX512-BF16, else float32."""
    return torch.bfloat16 if _cpu_flags() & _BFLOAT16_FLAGS else torch.float32


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called `name`.

    Args:
        name: ``auto`` (CUDA, else MPS, else CPU), ``cpu``, ``cuda``, ``mps``, or ``cuda:<index>``.

    Raises:
        UserError: for an unknown name, or a device that this machine does not have.
    """
    kind, colon, index = name.partition(":")
    if kind not in DEVICES or (colon and (kind != "cuda" or index != str(_number(index)))):
        raise unknown("device", name, DEVICES)
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else _metal_or_cpu()
        return torch.device(kind)
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch sees no CUDA device here; use --device cpu or auto")
    if index and int(index) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UserError(f"--device {name}: this machine has {count} CUDA devices, counted from 0")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: PyTorch sees no Metal device here; use --device cpu or auto")
    return torch.device(name)


def pick_dtype(name: str, device: torch.device, *, training: bool = False) -> torch.dtype:
    """Return the number type called `name` for `device`.

    Args:
        name: ``auto``, ``float32``, ``bfloat16`` or ``float16``. ``auto`` is bfloat16 on CUDA
            devices that compute in it (on older ones float16, in training float32),
            ``cpu_number_type()`` on a CPU and float32 elsewhere. Float16 on a CPU is exact enough
            but slow, so that it has to be asked for.
        device: where the network runs.
        training: whether gradients are computed.

    Raises:
        UserError: for an unknown name, or bfloat16 on a Mac that lacks it.
    """
    if name not in NUMBER_TYPES:
        raise unknown("number type", name, NUMBER_TYPES)
    if (
        name == "bfloat16"
        and device.type == "mps"
        and not torch.backends.mps.is_macos_or_newer(14, 0)
    ):
        raise UserError("--dtype bfloat16: Metal has it from macOS 14 on; use float16 or float32")
    if name != "auto":
        return {
            "float32": torch.float32,
            "bfloat16": torch.bfloat16,
            "float16": torch.float16,
        }[name]
    if device.type == "cpu":
        return cpu_number_type()
    if device.type != "cuda":
        return torch.float32
    # is_bf16_supported() also says yes where it is only emulated, hence the generation.
    major, _ = torch.cuda.get_device_capability(device)
    if major >= 8:
        return torch.bfloat16
    # Training in float16 would need its gradients scaled.
    return torch.float32 if training else torch.float16


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else -1


def _metal_or_cpu() -> str:
    return "mps" if torch.backends.mps.is_available() else "cpu"
