"""Imports run one way. A box is a folder; an arrow says that its files may import another's.

The arrows stand in docs/architecture.md and are read from there.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("shards", "configs", "prep", "train", "evaluate")
COMMON = {"shards", "shards.base", "shards.pixels", "shards.cache", "shards.verify", "configs"}
"""What every box outside of these may import."""
NETWORK = {"train.network", "train.network.blocks", "train.network.weights", "train.network.deploy"}
COMMANDS = {"prep.cli", "prep.commandline", "train.cli", "evaluate.cli"}
"""These put packages together; nothing but they import them."""


def arrows() -> dict[str, set[str]]:
    """Return what docs/architecture.md lets each box import."""
    table = {}
    for line in (ROOT / "docs/architecture.md").read_text().splitlines():
        if found := re.fullmatch(r"([a-z.]+) +->(.*)", line):
            targets = {name.strip() for name in found[2].split(",")} - {""}
            if "train.network.*" in targets:
                targets = targets - {"train.network.*"} | NETWORK
            table[found[1]] = targets if found[1] in COMMON else targets | COMMON
    return table


def modules(root: Path) -> dict[str, Path]:
    """Return every module of the five packages, as ``train.step.loss``, and its file."""
    files = (file for package in PACKAGES for file in sorted((root / package).rglob("*.py")))
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def box(module: str, known: dict[str, Path], root: Path) -> str:
    if module == "prep.commandline":
        return module
    return ".".join(known[module].relative_to(root).parent.parts)


def imports(file: Path, known: dict[str, Path]) -> Iterator[str]:
    """Yield the modules of ours that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [n if n.removeprefix("lorat.") in known else node.module for n in inside]
        else:
            continue
        yield from (n.removeprefix("lorat.") for n in names if n.startswith("lorat."))


def wrong_arrows(root: Path) -> list[str]:
    known = modules(root)
    allowed, wrong = arrows(), []
    for module, file in known.items():
        here = box(module, known, root)
        if here in COMMANDS:
            continue
        for target in imports(file, known):
            there = box(target, known, root)
            if there != here and there not in allowed.get(here, ()):
                wrong.append(f"{module} -> {target}")
    return wrong


def test_imports_run_one_way():
    assert not wrong_arrows(ROOT)


def test_every_folder_has_its_line_and_every_line_its_folder():
    known = modules(ROOT)
    boxes = {box(name, known, ROOT) for name in known} - COMMANDS
    assert arrows().keys() == boxes


def test_the_arrows_make_no_circle():
    left = arrows()
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    assert not left


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("train/step/loss.py", "import lorat.evaluate.measure.ope"),
        ("train/step/loss.py", "def f():\n    from lorat.evaluate.measure import ope"),
        ("evaluate/measure/ope.py", "from lorat.train.step.loss import loss"),
        ("shards/order.py", "from lorat.configs.load import load_recipe"),
        ("prep/pool.py", "from lorat.prep.cli import main"),
        ("evaluate/results/files.py", "from lorat.prep.commandline import options_of"),
    ],
)
def test_a_planted_arrow_is_found(tmp_path, file, line):
    for package in PACKAGES:
        (tmp_path / package).symlink_to(ROOT / package)
    package, inside = file.split("/", 1)
    (tmp_path / package).unlink()
    for source in (ROOT / package).rglob("*.py"):
        copy = tmp_path / source.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(source.read_text())
    before = wrong_arrows(tmp_path)
    with (tmp_path / package / inside).open("a") as planted:
        planted.write(f"\n{line}\n")
    assert len(wrong_arrows(tmp_path)) == len(before) + 1


def test_shards_and_configs_know_no_click():
    for module, file in modules(ROOT).items():
        if module.split(".")[0] in ("shards", "configs"):
            names = {
                alias.name
                for node in ast.walk(ast.parse(file.read_text()))
                if isinstance(node, ast.Import)
                for alias in node.names
            }
            assert "click" not in names, module


def test_no_folder_holds_more_than_ten_files():
    """A file for each data set or family: prep/trees/datasets grows with the field."""
    known = modules(ROOT)
    folders = {file.parent for file in known.values()} - {ROOT / "prep/trees/datasets"}
    counts = {f: len([x for x in f.glob("*.py") if not x.stem.startswith("__")]) for f in folders}
    assert not {str(folder): count for folder, count in counts.items() if count > 11}


def test_every_folder_is_in_the_wheel():
    text = (ROOT / "pyproject.toml").read_text()
    folders = {".".join(file.parent.relative_to(ROOT).parts) for file in modules(ROOT).values()}
    assert not [folder for folder in folders if f'"lorat.{folder}"' not in text]
