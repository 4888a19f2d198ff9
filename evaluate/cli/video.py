"""``lorat-eval video``: track one object in one's own video, and look at the result."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.draw import draw_ruler
from lorat.evaluate.track.settings import TrackerSettings
from lorat.evaluate.video.follow import follow, write_tracks
from lorat.evaluate.video.footage import (
    Footage,
    Shot,
    Start,
    first_shot,
    open_camera,
    open_footage,
    read_ahead,
)
from lorat.evaluate.video.write import VIDEO_SUFFIXES, VideoFile
from lorat.prep.commandline import Command, options_of
from lorat.shards.base.console import say, start_logging
from lorat.shards.base.errors import UserError
from lorat.shards.base.storage import atomic_file
from lorat.shards.pixels.geometry import xywh_to_xyxy

if TYPE_CHECKING:
    from lorat.evaluate.track.tracker import Tracker

__all__ = ["video_command"]

_LOG = logging.getLogger("lorat")
_FILE = click.Path(path_type=Path, dir_okay=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The command line, as click parsed it."""

    source: Path | None
    camera: int | None
    box: str | None
    first_frame: Path | None
    start: str
    frames: int | None
    out: Path | None
    csv: Path | None
    overwrite: bool
    settings: TrackerSettings

    @property
    def first_box(self) -> NDArray[np.float64] | None:
        """(4,) xyxy from --box, or None without it."""
        return None if self.box is None else _parse_box(self.box)


@click.command("video", cls=Command, context_settings={"show_default": True})
@click.argument("source", required=False, type=click.Path(path_type=Path))
@click.option("--camera", type=click.IntRange(min=0), help="A camera instead of a file; 0, 1, …")
@click.option(
    "--box",
    metavar="X,Y,W,H",
    help="The object in the first frame: left, top, width, height in its pixels, from 0.",
)
@click.option(
    "--first-frame",
    type=_FILE,
    help="Only write the first frame as a PNG under a ruled grid, with --box drawn if given.",
)
@options_of(TrackerSettings, "settings")
@click.option(
    "--start",
    metavar="WHERE",
    default="0",
    help="The first frame: its number, from 0 (300), or a time (12.5s).",
)
@click.option("--frames", type=click.IntRange(min=1), help="Only so many frames.")
@click.option(
    "--out",
    type=_FILE,
    help="The video: .mp4, or .avi.  [default: <name>-tracked.mp4 beside the source; of a camera, "
    "here]",
)
@click.option("--csv", type=_FILE, help="The boxes.  [default: the video's name in .csv]")
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
def video_command(**values: Any) -> None:
    """Track one object in SOURCE: a video, or a folder of images.

    Writes a video with the box and its score drawn, and a CSV with a line a frame: frame, time in
    seconds, x, y, w, h in pixels of the original frame, score. To find the box, look at the first
    frame.

    \b
    lorat-eval video clip.mp4 --first-frame first.png
    lorat-eval video clip.mp4 --box 412,201,86,65
    lorat-eval video --camera 0 --box 200,120,240,240 --weights model.safetensors

    Ctrl-C ends it and leaves a whole video and CSV of what was tracked.

    Exit status: 0 done, of a camera also by Ctrl-C; 130 by Ctrl-C before the end; 2 wrong input.
    """  # noqa: D301 (click's mark is the character itself)
    start_logging()
    click.get_current_context().exit(_video(Options(**values)))


def _video(options: Options) -> int:
    """Do the job and return the exit status."""
    _check(options)
    box, start = options.first_box, Start.parse(options.start)
    if options.first_frame is not None:
        with closing(_open(options, start)) as footage:
            _write_first_frame(footage, box, options.first_frame)
        return 0
    if box is None:
        raise UserError(
            "video: no --box; write the first frame with --first-frame first.png, read left, top, "
            "width and height off its grid, and give them as --box x,y,w,h"
        )
    out, csv = _outputs(options)
    options.settings.file()
    with closing(_open(options, start)) as footage:
        first, image = first_shot(footage)
        # torch takes seconds to import: help and mistakes need not wait for it.
        from lorat.evaluate.track.tracker import check_first_box

        try:
            check_first_box(box, (image.shape[1], image.shape[0]))
        except UserError as error:
            raise UserError(f"--box {options.box}: {error.message}") from None
        return _track(options, footage, first, _load(options.settings), box, out, csv)


def _track(
    options: Options,
    footage: Footage,
    first: Shot,
    tracker: Tracker,
    box: NDArray[np.float64],
    out: Path,
    csv: Path,
) -> int:
    from lorat.shards.base.signals import exit_status, hear_signals, signal_name

    left = None if footage.count is None else footage.count - first.number
    total = min((n for n in (left, options.frames) if n is not None), default=None)
    with hear_signals(speaks=False) as heard, read_ahead(footage) as reader:
        shots = reader.shots(lambda: heard.number != 0)
        if not footage.live:  # a camera's first frame is old by the time the network is loaded
            shots = chain([first], shots)
        steps = follow(tracker, islice(shots, options.frames), box)
        video = VideoFile(out, footage.rate, overwrite=options.overwrite)
        begin = time.monotonic()
        done, lost = write_tracks(footage, steps, video, csv, total)
        seconds = time.monotonic() - begin
    if lost:
        _LOG.warning(
            "%s: %d frames do not decode (the first: frame %d); they keep the last box",
            footage.name,
            len(lost),
            lost[0],
        )
    stopped = f", stopped by {signal_name(heard.number)}" if heard.number else ""
    say(f"{footage.name}: {done} frames{stopped}, {done / seconds:.1f} a second")
    say(f"video: {video.path}")
    say(f"boxes: {csv}")
    return exit_status(heard.number) if heard.number and not footage.live else 0


def _write_first_frame(footage: Footage, box: NDArray[np.float64] | None, path: Path) -> None:
    import cv2

    shot, image = first_shot(footage)
    bgr = cv2.cvtColor(draw_ruler(image, box), cv2.COLOR_RGB2BGR)
    with atomic_file(path) as file:
        file.write(cv2.imencode(".png", bgr)[1].tobytes())
    height, width = image.shape[:2]
    say(f"frame {shot.number}, {width} x {height} pixels: {path}")
    if box is None:
        say("read left, top, width and height of the object off its grid: --box x,y,w,h")


def _check(options: Options) -> None:
    if (options.source is None) == (options.camera is None):
        raise UserError("video: name one video or folder of images, or give --camera 0")
    if (path := options.first_frame) is None:
        return
    names = ("out", "csv", "frames", "run", "weights")
    given = {**asdict(options), **asdict(options.settings)}
    if odd := [name for name in names if given[name] is not None]:
        raise UserError(f"--{odd[0]}: has no meaning for --first-frame; leave it out")
    if path.suffix.lower() != ".png":
        raise UserError(f"--first-frame {path}: end the name in .png")
    _check_new(path, "--first-frame", options)


def _check_new(path: Path, option: str, options: Options) -> None:
    if options.source is not None and path.resolve() == options.source.resolve():
        raise UserError(f"{option} {path}: that is the footage itself; give another name")
    if path.exists() and not options.overwrite:
        raise UserError(f"{path}: exists; give another {option}, or --overwrite")


def _outputs(options: Options) -> tuple[Path, Path]:
    """Return the names of the video and the CSV."""
    out = options.out or _default_out(options)
    if out.suffix not in VIDEO_SUFFIXES:
        raise UserError(f"--out {out}: end the name in {' or '.join(VIDEO_SUFFIXES)}")
    csv = options.csv or out.with_suffix(".csv")
    if csv.resolve() == out.resolve():
        raise UserError(f"--csv {csv}: that is the video's name; give another")
    _check_new(out, "--out", options)
    _check_new(csv, "--csv", options)
    return out, csv


def _default_out(options: Options) -> Path:
    source = options.source
    if source is None:
        return Path(f"camera-{options.camera}-tracked.mp4")
    if source.name in ("", ".."):
        source = source.resolve()
    stem = source.name if source.is_dir() else source.stem
    return source.with_name(f"{stem}-tracked.mp4")


def _parse_box(text: str) -> NDArray[np.float64]:
    """Return (4,) xyxy from the text of --box."""
    try:
        numbers = np.array([float(part) for part in text.split(",")])
    except ValueError:
        numbers = np.zeros(0)
    if numbers.shape != (4,) or not np.isfinite(numbers).all():
        raise UserError(f"--box {text}: write four numbers x,y,w,h with commas between")
    if (numbers[2:] <= 0).any():
        raise UserError(f"--box {text}: width and height, the last two, must be above 0")
    return xywh_to_xyxy(numbers)


def _open(options: Options, start: Start) -> Footage:
    if options.source is not None:
        return open_footage(options.source, start)
    return open_camera(options.camera or 0, start)


def _load(settings: TrackerSettings) -> Tracker:
    from lorat.evaluate.track.predictor import Predictor
    from lorat.evaluate.track.tracker import Tracker

    return Tracker(Predictor.load(settings))
