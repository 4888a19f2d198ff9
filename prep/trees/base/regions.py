"""The regions of VOT's files, of annotations and results alike: boxes, polygons, masks, and lone numbers as codes."""

import re

import numpy as np
from numpy.typing import NDArray

from lorat.prep.trees.base.text import BadLine, is_number, notation_of, shorten
from lorat.shards.base.errors import UserError

_MASK = re.compile(r"m(-?\d+),(-?\d+),(\d{1,4}),(\d{1,4})((?:,\d{1,8})+),?")


def parse_regions(text: str, source: object, remedy: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read a region a line: (N, 4) boxes x, y, w, h around what it is, and (N,) codes, NaN where it is no code. A line
    is 4 numbers, a polygon's 6 or more, a mask as `parse_mask` reads it, or a code, which has no box: 0 there is none,
    in results also 1 started, 2 lost. Boxes are NaN there and for an empty mask. Errors are as of `parse_table`.
    """
    boxes, codes = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = re.split(r"\s*,\s*|\s+", line.strip().removesuffix(","))
        box, code = np.full(4, np.nan), np.nan
        if (mask := parse_mask(line)) is not None:
            box = box_around(*mask)
        elif not all(map(is_number, fields)) or (len(fields) not in (1, 4) and (len(fields) < 6 or len(fields) % 2)):
            message = f"line {number}: expected a box, a polygon, a mask or one number, found {shorten(line)}"
            if _MASK.fullmatch(line.strip()):
                message = f"line {number}: the runs of the mask {shorten(line)} are longer than its width x height"
            elif known := notation_of(line):
                message += f", which looks like {known}"
            raise BadLine(f"{source}: {message}; {remedy}", number, line)
        elif len(fields) == 1:
            code = float(fields[0])
        elif len(fields) == 4:
            box = np.array(fields, np.float64)
        else:
            points = np.array(fields, np.float64).reshape(-1, 2)
            box = np.concatenate([points.min(axis=0), np.ptp(points, axis=0)])
        boxes.append(box)
        codes.append(code)
    if not boxes:
        raise UserError(f"{source}: holds no numbers; {remedy}")
    return np.array(boxes), np.array(codes)


def parse_mask(line: str) -> tuple[int, int, NDArray[np.bool_]] | None:
    """Read ``m<x>,<y>,<w>,<h>,<run lengths>``, of zeros first, row by row, which may end early: the corner, and the
    (h, w) pixels of the object; None where a line is no such mask.
    """
    if (found := _MASK.fullmatch(line.strip())) is None:
        return None
    x, y, width, height = map(int, found.groups()[:4])
    runs = list(map(int, found[5].split(",")[1:]))
    if sum(runs) > width * height:
        return None
    filled = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return x, y, np.pad(filled, (0, width * height - len(filled))).reshape(height, width)


def box_around(x: int, y: int, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the x, y, w, h around a mask's pixels; NaN where it has none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return np.full(4, np.nan)
    return np.array([x + columns[0], y + rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1], np.float64)
