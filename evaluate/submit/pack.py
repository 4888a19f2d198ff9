"""Zips for the evaluation servers of GOT-10k and TrackingNet.

Promise: a zip that is written passed the judge of any zip before there was a file, and reads back as what was judged.
The same results give the same bytes. What cannot be submitted is refused.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.results.files import Run, SequenceResult, table_text
from lorat.evaluate.submit.check import judge_zip
from lorat.evaluate.submit.servers import SERVERS, ServerName
from lorat.prep.trees.base.clip import Clip
from lorat.shards.base.errors import UserError, counted, some
from lorat.shards.base.storage import atomic_file
from lorat.shards.pixels.geometry import rasterise, xywh_to_xyxy, xyxy_to_xywh

_TIME_DECIMALS = 8


class Packed(NamedTuple):
    """A finished submission zip."""

    path: Path  # the zip; its name ends in ``-unofficial`` where the sequences are not the official set
    sequences: int
    notes: tuple[str, ...]  # what the user should know, a line a kind: unofficial set, missing times, odd boxes

    def lines(self) -> tuple[str, ...]:
        """Return what to say of it."""
        return (*self.notes, f"zip of {counted(self.sequences, 'sequence')}: {self.path}")


def pack_zip(
    server: ServerName, runs: Sequence[Run], clips: Sequence[Clip], out_zip: Path, *, overwrite: bool = False
) -> Packed:
    """Write a submission of runs of exactly the clips; where the server takes one run, of the first.

    Boxes are rasterised to the whole pixels they touch, as in the published submissions. A sequence that was not timed
    in every frame has no times. A `UserError`, naming sequence and reason, if the results cannot be submitted, or if a
    zip with other content exists and `overwrite` is off.
    """
    rules = SERVERS[server]
    if not clips:
        raise UserError(f"{out_zip}: the tree has no sequence to submit; check the tree")
    names, notes = [clip.name for clip in clips], []
    if rules.most_runs == 1 < len(runs):
        notes.append(f"{rules.title} has no place for repeated runs: the first of {len(runs)} is zipped")
        runs = runs[:1]
    if not 1 <= len(runs) <= rules.most_runs:
        remedy = f"track with --repeats {rules.most_runs}, keep as many in the results, or name one run with --results"
        raise UserError(f"{out_zip}: {server} takes 1 to {rules.most_runs} runs, not {len(runs)}; {remedy}")
    if set(names) != set(rules.official):
        if not out_zip.stem.endswith("-unofficial"):
            out_zip = out_zip.with_name(f"{out_zip.stem}-unofficial{out_zip.suffix}")
        few = f"{counted(len(names), 'sequence')} {'is' if len(names) == 1 else 'are'}"
        notes.append(
            f"{few} not the official {len(rules.official)} of {rules.title}: "
            "the zip is named -unofficial, and the server would not score it"
        )
    texts: dict[str, str] = {}
    sizeless: dict[str, None] = {}
    for number, results in enumerate(runs, start=1):
        for name, result in results.items():
            boxes = _whole_pixels(result, f"{out_zip}: run {number}: {name}")
            texts[rules.boxes.format(name, number)] = table_text(boxes, rules.decimals)
            if count := np.count_nonzero((result.boxes[:, 2:] == 0.0).any(axis=1)):
                sizeless[f"{name} ({count:,})"] = None
    if sizeless:
        notes.append(f"boxes that have no size are written a pixel wide or high: {some(sorted(sizeless), 5)}")
    for name in names if rules.times else ():
        times = [results[name].times for results in runs if name in results]
        if len(set(map(len, times))) == 1 and (np.round(times, _TIME_DECIMALS) > 0.0).all():
            texts[rules.times.format(name)] = table_text(np.stack(times, axis=1), _TIME_DECIMALS)
    data = _zip_bytes(texts)
    lines = judge_zip(io.BytesIO(data), str(out_zip), server, names, clips).lines()
    if errors := [line for severity, line in lines if severity == "error"]:
        raise UserError(f"{out_zip}: {'; '.join(errors)}; correct the results or the tree")
    _write(out_zip, data, texts, overwrite)
    return Packed(out_zip, len(names), (*notes, *(line for _, line in lines)))


def _whole_pixels(result: SequenceResult, where: str) -> NDArray[np.float64]:
    """Return the (N, 4) x, y, w, h of the pixels that boxes touch, at least one wide and high."""
    good = np.isfinite(result.boxes).all(axis=1) & (result.boxes[:, 2:] >= 0.0).all(axis=1)
    if not good.all():
        frame = np.argmin(good) + 1
        raise UserError(f"{where}: the box of frame {frame} is not finite or has a negative size; track it again")
    # A side of up to a ten-thousandth of a pixel can rasterise to nothing; servers want a size.
    whole = xyxy_to_xywh(rasterise(xywh_to_xyxy(result.boxes)))
    whole[:, 2:] = np.maximum(whole[:, 2:], 1.0)
    return whole


def _zip_bytes(texts: Mapping[str, str]) -> bytes:
    """Return a zip of text files that depends on names and contents only."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in sorted(texts):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3  # Unix; the default differs between platforms
            info.external_attr = 0o100644 << 16
            archive.writestr(info, texts[name])
    return buffer.getvalue()


def _write(path: Path, data: bytes, texts: Mapping[str, str], overwrite: bool) -> None:
    """Write the zip beside its name, read it back, and only then give it its name."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the zip another name")
    if path.exists():
        if path.read_bytes() == data:
            return
        if not overwrite:
            raise UserError(f"{path}: exists with other content; use --overwrite or another name")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        held = {name: archive.read(name).decode() for name in archive.namelist()}
    with atomic_file(path) as file:
        file.write(data)
        file.flush()
        if held != texts or Path(file.name).read_bytes() != data:
            raise UserError(f"{path}: does not read back as written; check the disk")
