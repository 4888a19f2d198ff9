"""What is tracked in which footage, and where the result goes: each field is an option of the command."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lorat.evaluate.video.container import is_url
from lorat.evaluate.video.footage import SILENCE, Footage, Place, Shot
from lorat.evaluate.video.given import Given, read_given
from lorat.evaluate.video.read import open_camera, open_footage
from lorat.evaluate.video.write import CODECS, Files, writable
from lorat.shards.base.disk import check_can_write
from lorat.shards.base.errors import UserError, some
from lorat.shards.base.options import option
from lorat.shards.pixels.jpeg import Range16


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoOptions:
    """Which objects in which footage, and where the result goes."""

    source: str | None = None
    camera: int | None = option(None, least=0, help="A camera instead of a file; 0, 1, …")
    box: tuple[str, ...] = option(
        (),
        metavar="[WHERE:]X,Y,W,H",
        help="An object in the first frame, or in that at WHERE: left, top, width, height in its pixels, from 0. Once "
        "for each object.",
    )
    restart: tuple[str, ...] = option(
        (), metavar="[OBJECT@]WHERE:X,Y,W,H", help="A new box of an object, 1 if not named, in the frame at WHERE."
    )
    pick: bool = option(False, help="Draw the boxes in a window, with the mouse.")
    first_frame: Path | None = option(
        None, kind="file", help="Only write the first frame as a PNG under a ruled grid, with each --box drawn."
    )
    start: str = option(
        "0",
        names=("--from", "--start"),
        metavar="WHERE",
        help="The first frame: its number, from 0 (300), or a time (12.5s).",
    )
    to: str | None = option(None, metavar="WHERE", help="The last frame, likewise.")
    frames: int | None = option(None, least=1, help="Only so many frames.")
    live: bool | None = option(
        None,
        names=("--live/--no-live",),
        help="Whether only the newest frame of an address is tracked, or each.  [default: the newest, unless it is a "
        "file with an end]",
    )
    silence: float = option(
        SILENCE, least=0.1, help="Seconds without a frame after which a camera or stream has ended."
    )
    show: bool = option(False, help="Show the video in a window as it is tracked; q ends it.", section="Output")
    out: Path | None = option(
        None,
        kind="file",
        help="The video: .mp4, .webm or .avi.  [default: <name>-tracked.mp4 beside the source; of a camera or address, "
        "here]",
        section="Output",
    )
    csv: Path | None = option(
        None, kind="file", help="The boxes.  [default: the video's name in .csv]", section="Output"
    )
    json: Path | None = option(None, kind="file", help="The boxes as lines of JSON too, one a frame.", section="Output")
    overwrite: bool = option(False, help="Replace files that are there.", section="Output")

    def open(self, range16: Range16 | None) -> Footage:
        """Open what is to be tracked."""
        start = Place.parse(self.start, "--start")
        if self.live is not None and not (self.source and is_url(self.source)):
            raise UserError("--live/--no-live: is for an address; a camera is always live, a file never; leave it out")
        if self.source is None:
            return open_camera(self.camera or 0, start)
        return open_footage(self.source, start, range16, live=self.live, silence=self.silence)

    def given(self) -> list[Given]:
        """Return what --box and --restart say."""
        return read_given(self.box, self.restart)

    def last(self) -> Place | None:
        """Return the place of --to."""
        return None if self.to is None else Place.parse(self.to, "--to")

    def check_places(self) -> None:
        """Refuse a --to before --from, where both are numbers or both times."""
        start, last = Place.parse(self.start, "--start"), self.last()
        if last is not None and last.is_before(start):
            raise UserError(f"--to {self.to}: that is before --from {self.start}; give a later one")

    def end_before(self, place: Place, footage: Footage, first: Shot) -> str:
        """Return what ends before a place, in words; nothing where that cannot be said before the footage is read."""
        ends = {f"--to {self.to}": self.last()}
        if self.frames is not None and not footage.live:
            ends[f"--frames {self.frames}"] = Place(first.number + self.frames - 1)
        if footage.count is not None:  # some containers only estimate
            ends[f"frame {footage.count - 1}"] = Place(footage.count - 1 + footage.count // 100)
        return next((name for name, end in ends.items() if end is not None and end.is_before(place)), "")

    def total(self, footage: Footage, first: Shot) -> int | None:
        """Return how many frames there will be from the first on, where that is known."""
        last, ends = self.last(), [self.frames]
        if footage.count is not None:
            ends.append(footage.count - first.number)
        if last is not None:
            rest = round(((last.seconds or 0.0) - first.time) * footage.rate)
            ends.append(1 + (rest if last.number is None else last.number - first.number))
        return min((max(1, end) for end in ends if end is not None), default=None)

    def outputs(self) -> Files:
        """Return the names of the files to write; a `UserError` for one that cannot be, or is there."""
        out = self.out or Path(f"{self._stem()}-tracked.mp4")
        if out.suffix not in CODECS:
            raise UserError(f"--out {out}: end the name in {some(list(CODECS))}")
        files = Files(writable(out), self.csv or writable(out).with_suffix(".csv"), self.json)
        names: dict[Path, str] = {}
        for name, path in zip(("--out", "--csv", "--json"), files, strict=True):
            if path is not None:
                if (other := names.setdefault(path.resolve(), name)) != name:
                    raise UserError(f"{name} {path}: that is the name of {other} too; give another")
                self.check_new(path, name)
        return files

    def _stem(self) -> Path:
        """Return the name of the footage, where files beside it go."""
        if self.source is None:
            return Path(f"camera-{self.camera}")
        if is_url(self.source):
            parts = urlsplit(self.source)
            return Path(Path(parts.path).stem or parts.hostname or "stream")
        source = Path(self.source)
        if str(source).startswith("/dev/"):
            return Path(source.name)
        source = source.resolve() if source.name in ("", "..") else source
        return source.with_name(source.name if source.is_dir() else source.stem)

    def check_new(self, path: Path, name: str) -> None:
        """Refuse to write over the footage, over a file without --overwrite, or where no file can be."""
        if self.source is not None and not is_url(self.source) and path.resolve() == Path(self.source).resolve():
            raise UserError(f"{name} {path}: that is the footage itself; give another name")
        if path.exists() and not self.overwrite:
            raise UserError(f"{path}: exists; give another {name}, or --overwrite")
        check_can_write(path)
