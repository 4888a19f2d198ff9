"""``lorat-eval video``: track objects in one's own video, and look at the result."""

import logging
import re
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cv2

from lorat.evaluate.pictures import Picture, draw_ruler
from lorat.evaluate.segment.files import mask_files, place_of
from lorat.evaluate.segment.settings import MaskFileSettings
from lorat.evaluate.track.settings import TrackerSettings
from lorat.evaluate.video.follow import follow
from lorat.evaluate.video.footage import Footage, Shot, first_shot, read_ahead
from lorat.evaluate.video.given import Given
from lorat.evaluate.video.options import VideoOptions
from lorat.evaluate.video.window import Window, check_windows, window
from lorat.evaluate.video.write import Files, Written, write_tracks
from lorat.prep.commandline import Command, options_of
from lorat.shards.base.console import say, start_logging
from lorat.shards.base.errors import UserError, some
from lorat.shards.base.machine import Lost
from lorat.shards.base.signals import Heard, exit_status, hear_signals, signal_name
from lorat.shards.base.storage import atomic_file
from lorat.shards.pixels.geometry import xyxy_to_xywh

if TYPE_CHECKING:
    from lorat.evaluate.segment.segmenter import Segmenter
    from lorat.evaluate.video.masks import Masked

_LOG = logging.getLogger("lorat")


@click.command("video", cls=Command)
@click.argument("sources", nargs=-1, metavar="[SOURCE]")
@options_of(VideoOptions, "options", "Footage")
@options_of(TrackerSettings, "settings", "Weights and tracker")
@options_of(MaskFileSettings, "segment", "Masks")
def video_command(
    sources: tuple[str, ...], options: VideoOptions, settings: TrackerSettings, segment: MaskFileSettings
) -> None:
    """Track objects in SOURCE: a video, a folder of images, or an address (rtsp, http, …).

    Writes a video with boxes and scores drawn, and a CSV with a line for each frame and object: frame, time in
    seconds, x, y, w, h in pixels of the original frame, score, object, state. To find a box, look at the first frame.

    \b
    lorat-eval video clip.mp4 --first-frame first.png
    lorat-eval video clip.mp4 --box 412,201,86,65
    lorat-eval video clip.mp4 --box 412,201,86,65 --box 20,80,40,40 --from 2.5s --to 30s
    lorat-eval video --camera 0 --pick --show --weights model.safetensors
    lorat-eval video rtsp://camera/stream --box 200,120,240,240

    Ctrl-C ends it and leaves a whole video and CSV of what was tracked.

    Exit status: 0 done, of what is live also by Ctrl-C; 130 by Ctrl-C before the end; 2 wrong input.
    """  # noqa: D301 (click's mark is the character itself)
    start_logging()
    _check_no_spaces(sources, options)
    if len(sources) > 1:
        raise UserError(f"video: one source at a time, not {some(sources)}")
    options = replace(options, source=next(iter(sources), None))
    if (options.source is None) == (options.camera is None):
        raise UserError("video: name one video, folder of images or address, or give --camera 0")
    if options.first_frame is not None:
        _write_first_frame(options, {**asdict(settings), **asdict(segment)}, options.first_frame)
    else:
        click.get_current_context().exit(_track(options, settings, segment))


def _check_no_spaces(sources: Sequence[str], options: VideoOptions) -> None:
    """Refuse a box whose numbers have spaces between, so that the later ones are taken for sources."""
    numbers = [text for text in sources if re.fullmatch(r"[-+\d.,]+", text)]
    if len(numbers) == len(sources) and options.camera is None:
        del numbers[:1]  # the footage is named so
    typed = " ".join([*options.box[-1:], *numbers])
    if numbers and re.fullmatch(r"([^:]+:)?[-+\d. ,]+", typed):
        right = re.sub("[ ,]+", ",", typed)
        raise UserError(f"--box {typed}: write four numbers x,y,w,h with commas between, --box {right}")


def _write_first_frame(options: VideoOptions, settings: dict[str, Any], path: Path) -> None:
    useless = ("out", "csv", "json", "to", "frames", "pick", "show", "restart", "run", "weights", "segment")
    for name, value in {**asdict(options), **settings}.items():
        if name in useless and value not in (None, (), False):
            raise UserError(f"--{name}: has no meaning for --first-frame; leave it out")
    if path.suffix.lower() != ".png":
        raise UserError(f"--first-frame {path}: end the name in .png")
    options.check_new(path, "--first-frame")
    given = options.given()
    with (
        closing(options.open(settings["range16"])) as footage,
        closing(read_ahead(footage, silence=options.silence)) as shots,
    ):
        shot, image = first_shot(footage, shots)
    height, width = image.shape[:2]
    for each in given:
        for doubt in each.doubts((width, height)):
            _LOG.warning("%s", doubt)
    with atomic_file(path) as file:
        picture = draw_ruler(image, [each.xyxy for each in given])
        file.write(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
    say(f"frame {shot.number}, {width} x {height} pixels: {path}")
    if not given:
        say("read left, top, width and height of the object off its grid: --box x,y,w,h")


def _check_given(
    given: Sequence[Given], options: VideoOptions, footage: Footage, first: Shot, size: tuple[int, int]
) -> None:
    """Refuse boxes that cannot be tracked, and say which hardly mean what they say."""
    from lorat.evaluate.track.tracker import check_first_box

    for each in given:
        try:
            check_first_box(each.xyxy, size)
        except UserError as error:
            raise UserError(f"{each}: {error.message}") from None
        before = (first.number, first.time - 1 / footage.rate)
        if each.place is not None and not footage.live and each.place.passed(*before):
            raise UserError(f"{each}: that is before the first frame, {first.number}; give --from, or a later one")
        if each.place is not None and (end := options.end_before(each.place, footage, first)):
            raise UserError(f"{each}: that is after the end, {end}; give an earlier frame")
        for doubt in each.doubts(size):
            _LOG.warning("%s", doubt)


def _asked(
    options: VideoOptions, settings: TrackerSettings, segment: MaskFileSettings
) -> tuple[list[Given], Files, Path]:
    """Return the boxes that are given, the files to write and where masks go; a `UserError` for what can be known to be
    wrong before anything is opened.
    """
    given = options.given()
    options.check_places()
    if not (given or options.pick):
        raise UserError(
            "video: no --box; write the first frame with --first-frame first.png, read left, top, width and height off "
            "its grid, and give them as --box x,y,w,h; or draw it with --pick where there is a display"
        )
    segment.check()
    for name, wanted in {"--show": options.show, "--pick": options.pick}.items():
        if wanted:
            check_windows(name)
    files = options.outputs()
    masks = files.video.with_name(f"{files.video.stem}-masks")
    if segment.segment is not None:
        options.check_new(place_of(masks, segment.segment_files), "--out")
    settings.file()
    return given, files, masks


def _picked(shown: Window, image: Picture, options: VideoOptions) -> list[Given]:
    """Return the boxes that are drawn in the first frame, at least one where none is given."""
    boxes = enumerate(shown.pick(image), start=len(options.box) + 1)
    picked = [Given("--box ", number, None, xyxy_to_xywh(box)) for number, box in boxes]
    if not (picked or options.box):
        raise UserError("--pick: no box was drawn; press the mouse button at a corner and draw to the other one")
    say("picked: " + (" ".join(map(str, picked)) or "no other box"))
    return picked


def _masked(
    stack: ExitStack, segmenter: "Segmenter", masks: Path, segment: MaskFileSettings, given: Sequence[Given]
) -> "Masked":
    """Return what writes each object's masks while the stack is open."""
    from lorat.evaluate.video.masks import Masked

    numbers = sorted({each.object for each in given})
    stems = {number: masks / str(number) if len(numbers) > 1 else masks for number in numbers}
    return Masked(
        segmenter,
        {number: stack.enter_context(mask_files(stem, segment.segment_files)) for number, stem in stems.items()},
    )


def _track(options: VideoOptions, settings: TrackerSettings, segment: MaskFileSettings) -> int:
    """Do the main job and return the exit status."""
    given, files, masks = _asked(options, settings, segment)
    last, heard = options.last(), Heard()
    with ExitStack() as stack:
        footage = stack.enter_context(closing(options.open(settings.range16)))
        following = read_ahead(footage, lambda: heard.number != 0, options.silence)
        stack.enter_context(closing(following))
        first, image = first_shot(footage, following)
        if last is not None and last.passed(first.number, first.time):
            raise UserError(f"--to {options.to}: that is before the first frame, {first.number}; give a later one")
        _check_given(given, options, footage, first, (image.shape[1], image.shape[0]))
        # torch takes seconds to import: help and mistakes need not wait for it.
        from lorat.evaluate.track.predictor import Predictor
        from lorat.evaluate.track.tracker import Targets

        targets = Targets(Predictor.load(replace(settings, redetect=settings.redetect is not False)))
        segmenter = segment.load(targets.predictor.device)
        shown = stack.enter_context(window(footage.name)) if options.show or options.pick else None
        if options.pick and shown is not None:
            # A camera's first frame is old by the time the network is loaded.
            first, image = first_shot(footage, following) if footage.live else (first, image)
            given += _picked(shown, image, options)
        stack.enter_context(hear_signals(heard))
        shots: Iterable[Shot] = following if footage.live and not options.pick else chain([first], following)
        if last is not None:
            shots = takewhile(lambda shot: not last.passed(shot.number, shot.time), shots)
        masked = None if segmenter is None else _masked(stack, segmenter, masks, segment, given)
        begin, lost_time = time.monotonic(), Lost()
        steps = follow(islice(shots, options.frames), targets, given)
        show = shown.goes_on if options.show and shown is not None else lambda picture: True
        written = write_tracks(footage, steps, files, options.total(footage, first), masked=masked, show=show)
        seconds, shared = time.monotonic() - begin, lost_time.line()
    _report(footage, written, seconds, heard)
    if shared:
        _LOG.warning("%s", shared)
    for what, path in zip(("video", "boxes", "lines"), files, strict=True):
        if path is not None:
            say(f"{what}: {path}")
    if masked is not None:
        say(f"masks: {place_of(masks, segment.segment_files)}")
    return exit_status(heard.number) if heard.number and not footage.live else 0


def _report(footage: Footage, written: Written, seconds: float, heard: Heard) -> None:
    if lost := written.lost:
        text = "%s: %d frames do not decode (the first: frame %d); they keep the last box"
        _LOG.warning(text, footage.name, len(lost), lost[0])
    stopped = f", stopped by {signal_name(heard.number)}" if heard.number else ""
    passed = f"; {written.passed} came and went meanwhile" if footage.live else ""
    say(f"{footage.name}: {written.frames} frames{stopped}, {written.frames / seconds:.1f} a second{passed}")
