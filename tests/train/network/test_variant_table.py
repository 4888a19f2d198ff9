"""The table of variants in docs/network.md says what is counted."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lorat.configs.load import load_variant, names
from lorat.configs.schema import VariantConfig
from lorat.train.network.blocks.lora import merge_adapters
from lorat.train.network.blocks.lorat import OneStream
from lorat.train.network.variants import assemble

LINES = (Path(__file__).parents[3] / "docs/network.md").read_text(encoding="utf-8").splitlines()
FIRST = next(number for number, line in enumerate(LINES) if line.startswith("| variant | backbone |"))


def rows() -> dict[str, tuple[str, ...]]:
    """Parameters, trained ones and GFLOP of every variant; two of them may share a row, and a number."""
    found = {}
    for line in LINES[FIRST + 2 :]:
        if not line.startswith("| "):
            break
        cells = [cell.split(", ") for cell in line.strip("| ").split(" | ")]
        name, *others = cells[0]
        for number, variant in enumerate([name, *(name[: name.rindex("-")] + other for other in others)]):
            found[variant] = tuple(cell[number] if len(cell) > 1 else cell[0] for cell in cells[5:8])
    return found


ROWS = rows()


def counts(variant: VariantConfig, network: OneStream) -> tuple[str, ...]:
    """The same of a network on the meta device, whose adapters are merged by this."""
    whole = sum(p.numel() for p in network.parameters())
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    merge_adapters(network)
    side, reference, searched = variant.template_size, variant.reference_size, variant.search_size
    template = torch.empty(1, variant.templates, 3, side, side)
    mask = torch.empty(1, variant.templates, network.template_grid, network.template_grid, dtype=torch.bool)
    again = None if reference is None else torch.empty(1, 3, reference, reference)
    memory = network.remember(template, mask, again)
    with FlopCounterMode(display=False) as counter:
        network.follow(memory, torch.empty(1, 3, searched, searched))
    return f"{whole:,}", "all" if trained == whole else f"{trained:,}", f"{counter.get_total_flops() / 1e9:,.1f}"


def test_every_variant_stands_in_it():
    assert sorted(ROWS) == sorted(names("variants"))


@pytest.mark.parametrize("name", ROWS)
def test_its_parameters_and_operations_are_counted_again(name):
    variant = load_variant(name)
    with torch.device("meta"), torch.no_grad():
        assert counts(variant, assemble(variant, None).eval()) == ROWS[name]
