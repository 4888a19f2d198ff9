"""Listing a tree: its folders, its sequences, their images and annotation files.

A folder that is missing, or holds nothing of what it should, is a `UserError`.
"""

import os
import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatch
from pathlib import Path

from lorat.prep.trees.base.clip import Dataset
from lorat.prep.trees.base.reading import in_threads, note, report_fault, report_lack
from lorat.prep.trees.base.text import RESTORE, read_names
from lorat.shards.base.errors import UserError, some

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
_INNER = ("img", "imgs", "color", "ir")  # folders of images in a sequence's
_SEQUENCE = re.compile(r".+-\d+")


def natural_order(names: Iterable[str]) -> list[str]:
    """Sort names with the numbers in them compared as numbers: a-2 before a-10."""

    def key(name: str) -> tuple[list[str | int], str]:
        parts = re.split(r"(\d+)", name)  # text and digits in turn, so that a number always meets a number
        return [int(part) if i % 2 else part for i, part in enumerate(parts)], name

    return sorted(names, key=key)


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in `folder`, sorted; hidden ones are left out."""
    return sorted(entry.name for entry in _entries(folder) if entry.is_dir())


def file_names(folder: Path, suffix: str) -> list[str]:
    """Return the names in `folder` that end in `suffix`, sorted; hidden files are left out."""
    return sorted(entry.name for entry in _entries(folder) if entry.name.endswith(suffix))


def held(folder: Path) -> str:
    """Return which folders there are in one, for a message about what it lacks."""
    names = subfolders(folder) if folder.is_dir() else []
    return f"folders there: {some(names)}" if names else "there is no folder in it"


def but_folders(folder: Path) -> str:
    """Return which folders are where images should be, for a message; nothing where none is."""
    names = subfolders(folder) if folder.is_dir() else []
    return f", but folders: {some(names)}" if names else ""


def where_else(dataset: Dataset, split: str, root: Path, *, named: bool) -> str:
    """Return what a split is looked for as under a root that lacks it, what there is, and what is most likely to do:
    whether a folder is too many or called otherwise, or the root too deep. Where it is there and what it `named` lacks,
    that is not it.
    """
    looks = dataset.looks if isinstance(dataset.looks, str) else dataset.looks.get(split, "")
    patterns = [each.split("/") for each in looks.replace("{split}", split if split != "all" else "*").split(" or ")]
    folder = root  # the deepest of those whose name is known that holds folders
    for part in patterns[0][:-1]:
        if "*" in part or not ((folder / part).is_dir() and subfolders(folder / part)):
            break
        folder /= part
    there = held(folder).replace("there:", f"in {folder.relative_to(root)}:") if folder != root else held(root)
    if named and looks and any(next(root.glob("/".join(parts)), None) for parts in patterns):
        return there
    remedies = (_likely(dataset.name, root, parts) for parts in patterns if looks)
    remedy = next(filter(None, remedies), f"give the data set's own folder with --root {dataset.name}=DIR")
    looked = " or ".join(map("/".join, patterns))
    return f"{f'looked for {looked}; ' if looks else ''}{there}; {remedy}"


def _likely(name: str, root: Path, parts: list[str]) -> str:
    """Return where what is looked for is a level deeper or higher, or called otherwise, and what to do; nothing where
    it is none of these.
    """
    for at in range(len(parts)):
        if found := next(root.glob("/".join([*parts[:at], "*", *parts[at:]])), None):
            extra = root.joinpath(*found.relative_to(root).parts[: at + 1])
            move = f"is a folder too many: move what it holds into {extra.parent}"
            twice = extra.name == found.relative_to(extra).parts[0]  # each sequence in a folder of its own name
            return f"{extra} {move if at or twice else f'looks like it: give --root {name}={extra}'}"
    for base in (root, *(root / child for child in subfolders(root))):
        if called := _called_otherwise(base, parts):
            return called
    for at in range(1, len(parts)):
        if not parts[at].startswith("*.") and next(root.glob("/".join(parts[at:])), None):
            around = root.absolute().parents[at - 1]
            if fnmatch(root.absolute().relative_to(around).as_posix(), "/".join(parts[:at])):
                return f"{root} is a part of it: give --root {name}={around}"
            return f"what {root} holds belongs into {root.joinpath(*parts[:at])}"
    around = root.absolute().parent
    if not parts[0].startswith("*") and next(around.glob("/".join(parts)), None):
        return f"{around} looks like it: give --root {name}={around}"
    return ""


def _called_otherwise(root: Path, parts: list[str]) -> str:
    """Return which folder, such as train_data or Train, has what is looked for in the one that should be there."""
    for at, part in enumerate(parts[:-1]):
        if part.startswith("*"):
            break
        folder = root.joinpath(*parts[:at])
        for other in subfolders(folder) if folder.is_dir() else ():
            alike = fnmatch(other.lower(), f"*{part.lower()}*")
            if alike and next((folder / other).glob("/".join(parts[at + 1 :])), None):
                return f"{folder / other} looks like {folder / part}: call it so"
        if "*" in part:
            break
    return ""


def listed_sequences(listed: Path, there: Collection[str]) -> list[str]:
    """Return the sequences that a list names, in its order, and are there; what it lacks or does not name is told."""
    names = read_names(listed)
    report_lack(listed, f"the {{}} of {listed.name}", "sequence", names, there)
    if others := natural_order(set(there).difference(names)):
        what = f"{some(others)}: not in {listed.name}, so not read"
        report_fault(others[0], f"{listed.parent}: {what}")
    return [name for name in names if name in there]


def split_tree(dataset: Dataset, split: str, root: Path) -> Path:
    """Return the tree of one split: `root`, or its folder called as that tree; a `UserError` if it has others only."""
    tree = root / dataset.folders(split)[0]
    if tree.is_dir():
        return tree
    if any((root / other).is_dir() for other in dataset.folders()):
        raise UserError(f"{tree}: no such folder; put {dataset.name}'s {split} sequences there")
    return root


def sequence_folders(root: Path, images: str = "") -> dict[str, Path]:
    """Return the folders ``<class>/<class>-<k>``, and ``<class>-<k>`` in the root itself, by name. Where a class may be
    called like a sequence, `images` is the folder that only a sequence has.
    """

    def look(name: str) -> dict[str, Path]:
        if _SEQUENCE.fullmatch(name) and (root / name / images).is_dir():
            return {name: root / name}
        return {inner: root / name / inner for inner in filter(_SEQUENCE.fullmatch, subfolders(root / name))}

    return {name: folder for found in in_threads(look, subfolders(root)) for name, folder in found.items()}


def annotation_files(root: Path, pattern: str) -> dict[Path, list[Path]]:
    """Return the sequence folders with their files of `pattern`, in natural order; one without is a warning."""

    def look(folder: Path) -> list[Path]:
        note((folder / pattern).parent)
        if not (files := sorted(folder.glob(pattern))):
            report_fault(folder.name, f"{folder}: no {pattern}, so it is not read as a sequence")
        return files

    folders = [root / name for name in natural_order(subfolders(root))]
    return {folder: files for folder, files in zip(folders, in_threads(look, folders), strict=True) if files}


def image_names(folder: Path) -> tuple[str, ...]:
    """Return the names of the images in `folder`, at least one, in natural order; no hidden ones. Where sorted as text
    they would stand in another order, that is told.
    """
    images = _images(folder)
    if images != (ordered := tuple(natural_order(images))):
        at = next(i for i, name in enumerate(ordered) if name != images[i])
        what = f"frames are in the order of their numbers: {ordered[at]} where the order of text has {images[at]}"
        report_fault((folder.parent if folder.name in _INNER else folder).name, f"{folder}: {what}")
    return ordered


def _images(folder: Path) -> tuple[str, ...]:
    if images := tuple(name for name in file_names(folder, "") if name.lower().endswith(IMAGE_SUFFIXES)):
        return images
    what = f"holds no images ({', '.join(IMAGE_SUFFIXES)}){but_folders(folder)}"
    raise UserError(f"{folder}: {what}; restore them from the data set's archive")


def numbered_images(folder: Path) -> tuple[str, ...]:
    """Return the names of the images, at least one, whose stem is a number, sorted by it."""
    if names := [name for name in _images(folder) if frame_number(name) >= 0]:
        return tuple(sorted(names, key=frame_number))
    raise UserError(f"{folder}: no image is named by its frame number; restore the frames")


def counted_images(folder: Path, first: int) -> tuple[str, ...]:
    """Return the images of a folder, called as its sequence, that alone tells how many frames there are. A number that
    is missing between `first` and the last one shifts all frames behind it: a fault.
    """
    names = numbered_images(folder)
    numbers = [frame_number(name) for name in names]
    if missing := sorted(set(range(first, numbers[-1])).difference(numbers)):
        message = f"{folder}: image number {some(missing, 1)} missing; restore the frames"
        report_fault(folder.name, message, damage=True)
    return names


def frame_number(name: str) -> int:
    """Return the number that an image is named by, or -1."""
    stem = name.rpartition(".")[0]
    return int(stem) if stem.isdecimal() else -1


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    note(folder)
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        beside = f"{held(folder.parent)}; " if folder.parent.is_dir() else ""
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); {beside}{RESTORE}") from None
