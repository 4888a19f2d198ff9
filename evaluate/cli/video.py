"""``lorat-eval video``: track one object in one's own video, and look at the result."""

import logging
import time
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from lorat.evaluate.pictures import draw_ruler
from lorat.evaluate.segment.files import mask_files, place_of
from lorat.evaluate.segment.settings import MaskFileSettings
from lorat.evaluate.track.settings import TrackerSettings
from lorat.evaluate.video.read import Footage, first_shot, open_camera, open_footage, read_ahead
from lorat.evaluate.video.write import CODECS, writable, write_tracks
from lorat.prep.commandline import Command, options_of
from lorat.shards.base.console import say, start_logging
from lorat.shards.base.disk import check_can_write
from lorat.shards.base.errors import UserError, some
from lorat.shards.base.machine import Lost
from lorat.shards.base.options import option
from lorat.shards.base.signals import Heard, exit_status, hear_signals, signal_name
from lorat.shards.base.storage import atomic_file
from lorat.shards.pixels.geometry import xywh_to_xyxy
from lorat.shards.pixels.jpeg import Range16

_LOG = logging.getLogger("lorat")


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoOptions:
    """Which object in which footage, and where the result goes."""

    source: Path | None = None
    camera: int | None = option(None, least=0, help="A camera instead of a file; 0, 1, …")
    box: str | None = option(
        None, metavar="X,Y,W,H", help="The object in the first frame: left, top, width, height in its pixels, from 0."
    )
    first_frame: Path | None = option(
        None, kind="file", help="Only write the first frame as a PNG under a ruled grid, with --box drawn if given."
    )
    start: str = option("0", metavar="WHERE", help="The first frame: its number, from 0 (300), or a time (12.5s).")
    frames: int | None = option(None, least=1, help="Only so many frames.")
    out: Path | None = option(
        None,
        kind="file",
        help="The video: .mp4, .webm or .avi.  [default: <name>-tracked.mp4 beside the source; of a camera, here]",
        section="Output",
    )
    csv: Path | None = option(
        None, kind="file", help="The boxes.  [default: the video's name in .csv]", section="Output"
    )
    overwrite: bool = option(False, help="Replace files that are there.", section="Output")

    def open(self, range16: Range16 | None) -> Footage:
        """Open what is to be tracked."""
        if self.source is None:
            return open_camera(self.camera or 0, self.start)
        return open_footage(self.source, self.start, range16)

    def first_box(self) -> NDArray[np.float64] | None:
        """Return --box as (4,) xyxy, or None without it."""
        if self.box is None:
            return None
        try:
            numbers = np.array(self.box.split(","), dtype=np.float64)
        except ValueError:
            numbers = np.zeros(0)
        if numbers.shape != (4,) or not np.isfinite(numbers).all():
            raise UserError(f"--box {self.box}: write four numbers x,y,w,h with commas between")
        if (numbers[2:] <= 0).any():
            raise UserError(f"--box {self.box}: width and height, the last two, must be above 0")
        return xywh_to_xyxy(numbers)

    def outputs(self) -> tuple[Path, Path]:
        """Return the names of the video and the CSV."""
        source = self.source or Path(f"camera-{self.camera}")
        source = source.resolve() if source.name in ("", "..") else source
        out = self.out or source.with_name(f"{source.name if source.is_dir() else source.stem}-tracked.mp4")
        if out.suffix not in CODECS:
            raise UserError(f"--out {out}: end the name in {some(list(CODECS))}")
        out = writable(out)
        csv = self.csv or out.with_suffix(".csv")
        if csv.resolve() == out.resolve():
            raise UserError(f"--csv {csv}: that is the video's name; give another")
        self.check_new(out, "--out")
        self.check_new(csv, "--csv")
        return out, csv

    def check_new(self, path: Path, name: str) -> None:
        """Refuse to write over the footage, over a file without --overwrite, or where no file can be."""
        if self.source is not None and path.resolve() == self.source.resolve():
            raise UserError(f"{name} {path}: that is the footage itself; give another name")
        if path.exists() and not self.overwrite:
            raise UserError(f"{path}: exists; give another {name}, or --overwrite")
        check_can_write(path)


@click.command("video", cls=Command)
@click.argument("source", required=False, type=click.Path(path_type=Path))
@options_of(VideoOptions, "options", "Footage")
@options_of(TrackerSettings, "settings", "Weights and tracker")
@options_of(MaskFileSettings, "segment", "Masks")
def video_command(
    source: Path | None, options: VideoOptions, settings: TrackerSettings, segment: MaskFileSettings
) -> None:
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
    options = replace(options, source=source)
    if (source is None) == (options.camera is None):
        raise UserError("video: name one video or folder of images, or give --camera 0")
    if options.first_frame is not None:
        _write_first_frame(options, {**asdict(settings), **asdict(segment)}, options.first_frame)
    else:
        click.get_current_context().exit(_track(options, settings, segment))


def _write_first_frame(options: VideoOptions, settings: dict[str, Any], path: Path) -> None:
    for name, value in {**asdict(options), **settings}.items():
        if name in ("out", "csv", "frames", "run", "weights", "segment") and value not in (None, ()):
            raise UserError(f"--{name}: has no meaning for --first-frame; leave it out")
    if path.suffix.lower() != ".png":
        raise UserError(f"--first-frame {path}: end the name in .png")
    options.check_new(path, "--first-frame")
    box = options.first_box()
    with closing(options.open(settings["range16"])) as footage:
        shot, image = first_shot(footage)
    with atomic_file(path) as file:
        file.write(cv2.imencode(".png", draw_ruler(image, box)[..., ::-1])[1].tobytes())
    say(f"frame {shot.number}, {image.shape[1]} x {image.shape[0]} pixels: {path}")
    if box is None:
        say("read left, top, width and height of the object off its grid: --box x,y,w,h")


def _track(options: VideoOptions, settings: TrackerSettings, segment: MaskFileSettings) -> int:
    """Do the main job and return the exit status."""
    if (box := options.first_box()) is None:
        raise UserError(
            "video: no --box; write the first frame with --first-frame first.png, read left, top, width and height off "
            "its grid, and give them as --box x,y,w,h"
        )
    segment.check()
    files = options.outputs()
    masks = files[0].with_name(f"{files[0].stem}-masks")
    if segment.segment is not None:
        options.check_new(place_of(masks, segment.segment_files), "--out")
    settings.file()  # a wrong name is told before anything is opened
    with closing(options.open(settings.range16)) as footage:
        first, image = first_shot(footage)
        # torch takes seconds to import: help and mistakes need not wait for it.
        from lorat.evaluate.track.predictor import Predictor
        from lorat.evaluate.track.tracker import Tracker, check_first_box

        try:
            check_first_box(box, (image.shape[1], image.shape[0]))
        except UserError as error:
            raise UserError(f"--box {options.box}: {error.message}") from None
        settings = replace(settings, redetect=settings.redetect is not False)
        tracker = Tracker(Predictor.load(settings))
        segmenter = segment.load(tracker.predictor.device)
        left = None if footage.count is None else footage.count - first.number
        total = min((n for n in (left, options.frames) if n is not None), default=None)
        with (
            hear_signals(Heard()) as heard,
            closing(read_ahead(footage, lambda: heard.number != 0)) as following,
            ExitStack() as stack,
        ):
            # A camera's first frame is old by the time the network is loaded.
            shots = islice(following if footage.live else chain([first], following), options.frames)
            masked = None
            if segmenter is not None:
                from lorat.evaluate.segment.sequences import Masked

                masked = Masked(segmenter, stack.enter_context(mask_files(masks, segment.segment_files)))
            begin, lost_time = time.monotonic(), Lost()
            done, lost = write_tracks(footage, shots, tracker, box, files, total, masked)
            seconds, shared = time.monotonic() - begin, lost_time.line()
    if lost:
        text = "%s: %d frames do not decode (the first: frame %d); they keep the last box"
        _LOG.warning(text, footage.name, len(lost), lost[0])
    stopped = f", stopped by {signal_name(heard.number)}" if heard.number else ""
    say(f"{footage.name}: {done} frames{stopped}, {done / seconds:.1f} a second")
    if shared:
        _LOG.warning("%s", shared)
    say(f"video: {files[0]}\nboxes: {files[1]}")
    if masked is not None:
        say(f"masks: {place_of(masks, segment.segment_files)}")
    return exit_status(heard.number) if heard.number and not footage.live else 0
