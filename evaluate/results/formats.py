"""The boxes in one file of any tracker: text, VOT's regions, MATLAB's .mat, JSON; and zips of such files. Nothing in a
file is executed or unpickled, and a zip is unpacked into a temporary folder alone.
"""

import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.results.files import REMEDY
from lorat.prep.trees.base.regions import parse_regions
from lorat.prep.trees.base.text import parse_table, read_text
from lorat.shards.base.disk import explain_disk
from lorat.shards.base.errors import UserError, counted

SUFFIXES = (".txt", ".mat", ".json")
READ = "read are text (.txt), MATLAB (.mat) and JSON files, in a folder or a zip"
_REGION_SETS = ("vot", "didi")  # whose toolkit writes polygons and masks too
_LARGEST = 2 << 30  # bytes that a zip may hold
_KEYS = ("results", "res", "pred_rect", "pred_bbox", "boxes", "gt_rect")  # of boxes, or of structs around them
_BROKEN = (OSError, ValueError, TypeError, KeyError, IndexError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


class Rows(NamedTuple):
    """What a file says of one sequence."""

    boxes: NDArray[np.float64]  # (N, 4) x, y, w, h as written; NaN where a code of VOT's stands for a box
    coded: NDArray[np.bool_]  # (N,) rows that such a code stands for
    seconds: float = np.nan  # a frame, where the file gives one speed for all
    key: str = ""  # what the file calls the boxes


def read_rows(path: Path, dataset: str, source: str) -> Rows:
    """Read a tracker's boxes of one sequence; a `UserError` with `source` in it if the file holds none."""
    if (kind := path.suffix.lower()) != ".txt":
        return _record(_json(path) if kind == ".json" else _mat(path), source)
    text = read_text(path, REMEDY).rstrip()
    if dataset not in _REGION_SETS and text.partition("\n")[0].strip() != "1":
        boxes = parse_table(text, source, (4,), remedy=REMEDY)
        return Rows(boxes, np.zeros(len(boxes), np.bool_))
    boxes, codes = parse_regions(text, source, REMEDY)
    if lost := int(max((codes == 2).sum(), (codes == 1).sum() - 1)):
        why = f"a reset baseline of VOT's, in which the tracker was put back onto the object {counted(lost, 'time')}"
        raise UserError(f"{source}: {why}; a score of one pass needs the results of an unsupervised run")
    return Rows(boxes, ~np.isnan(codes))


def _mat(path: Path) -> Any:
    """Return what ``results{1}`` of OTB's toolkit holds, or the one matrix of four columns of a file."""
    try:
        from scipy.io import loadmat, whosmat
        from scipy.io.matlab import MatReadError
    except ImportError:
        raise UserError(f"{path}: MATLAB files need scipy: pip install 'lorat[mat]'") from None
    try:
        held = [name for name, shape, _ in whosmat(path) if name in _KEYS or (len(shape) == 2 and shape[1] == 4)]
        named = next(([key] for key in _KEYS if key in held), held)
        return loadmat(path, simplify_cells=True, variable_names=named)[named[0]] if len(named) == 1 else {}
    except (MatReadError, *_BROKEN) as error:
        raise UserError(f"{path}: is no MATLAB file that can be read ({error}); save it anew with -v7") from None


def _json(path: Path) -> Any:
    try:
        return json.loads(read_text(path, REMEDY))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no JSON ({error}); {REMEDY}") from None


def toolkit_report(place: Path) -> dict[str, Any] | None:
    """Return a ``performance.json`` of GOT-10k's toolkit, or of the folder with it: scores by tracker and no boxes;
    None of any other place.
    """
    file = place / "performance.json" if place.is_dir() else place
    content = _json(file) if file.is_file() and file.suffix.lower() == ".json" else None
    reports = isinstance(content, dict) and any(isinstance(v, dict) and "seq_wise" in v for v in content.values())
    return content if reports else None


def _record(value: Any, source: str) -> Rows:
    """Return the boxes of rows, or of the one struct around them; of several (TRE, SRE) none is that of one pass."""
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    struct = value if isinstance(value, dict) else {"": value}
    key = next((key for key in ("", *_KEYS) if key in struct), "")
    try:
        boxes = np.array(struct.get(key), np.float64, ndmin=2)
    except (ValueError, TypeError):
        boxes = np.zeros((0, 0))
    kind, speed = struct.get("type", struct.get("resType", "rect")), struct.get("fps")
    if kind != "rect" or boxes.ndim != 2 or boxes.shape[1] != 4 or not len(boxes):
        wanted = f"rows of 4 numbers, or one struct of type rect with them as {', '.join(_KEYS[1:])}"
        raise UserError(f"{source}: holds no boxes of one pass ({wanted}); {REMEDY}")
    seconds = 1.0 / speed if isinstance(speed, int | float) and speed > 0 else np.nan
    return Rows(boxes, np.zeros(len(boxes), np.bool_), seconds, key)


@contextmanager
def unpacked(place: Path) -> Iterator[Path]:
    """Give a folder of results for as long as the block runs: the place itself, or what it, a zip, or a JSON file with
    the boxes of all sequences, holds. A `UserError` if it is another file, or more than 2 GiB.
    """
    if not place.is_file():
        yield place
        return
    with (
        TemporaryDirectory(prefix="lorat-results-", ignore_cleanup_errors=True) as top,
        explain_disk(folder := Path(top) / place.stem),
    ):
        folder.mkdir()
        (_split if place.suffix.lower() == ".json" else _unzip)(place, folder)
        try:
            yield folder
        except UserError as error:
            error.message = error.message.replace(str(folder), str(place))
            error.args = (error.message,)
            raise


def _split(place: Path, folder: Path) -> None:
    """Write the boxes that a JSON file has of each sequence into files of their own."""
    content = _json(place)
    if toolkit_report(place):
        remedy = "lorat-eval compare and report show them"
        raise UserError(f"{place}: holds the scores of GOT-10k's toolkit and no boxes; {remedy}")
    if not isinstance(content, dict) or not content:
        raise UserError(f"{place}: has no boxes by sequence; give the folder of the boxes")
    for name, rows in content.items():
        if Path(name).name == name and "\0" not in name:
            (folder / f"{name}.json").write_text(json.dumps(rows), "utf-8")


def _unzip(place: Path, folder: Path) -> None:
    """Unpack a zip's files of results; zipfile itself keeps what leads outside inside."""
    try:
        with zipfile.ZipFile(place) as archive:
            members = [each for each in archive.infolist() if each.filename.lower().endswith(SUFFIXES)]
            if sum(each.file_size for each in members) > _LARGEST:
                raise UserError(f"{place}: holds more than {_LARGEST >> 30} GiB; unpack it and name the folder")
            for member in members:
                member.filename = member.filename.replace("\\", "/")
                archive.extract(member, folder)
    except _BROKEN as error:
        raise UserError(f"{place}: is neither a folder nor a zip that can be read ({error}); {READ}") from None
