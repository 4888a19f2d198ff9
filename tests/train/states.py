"""The state of a training run's checkpoint, for comparing two runs bit for bit."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from lorat.train.checkpoint.checkpoints import STATE, WEIGHTS


def contents(checkpoint: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the weights, and the optimiser's tensors by parameter."""
    state = torch.load(checkpoint / STATE, weights_only=True)
    return load_file(checkpoint / WEIGHTS), state["optimizer"]["state"]


def assert_same_state(checkpoint: Path, wanted: Path) -> None:
    """Weights and optimiser are the same bit for bit."""
    (weights, moments), (expected, expected_moments) = contents(checkpoint), contents(wanted)
    assert weights.keys() == expected.keys() and moments.keys() == expected_moments.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    for number, values in expected_moments.items():
        assert all(torch.equal(moments[number][key], value) for key, value in values.items())
