"""Options that several commands of lorat-eval have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorat.evaluate.measure.ope import ConventionName
from lorat.evaluate.measure.scores import Entry
from lorat.evaluate.report.tables import sequences_csv
from lorat.evaluate.track.settings import default_out, run_weights
from lorat.evaluate.track.testsets import TestSet
from lorat.shards.base.console import say
from lorat.shards.base.disk import check_can_write
from lorat.shards.base.errors import UserError, nearest
from lorat.shards.base.options import option
from lorat.shards.base.storage import atomic_file


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringOptions:
    """How boxes are scored, and a file for that."""

    convention: ConventionName = option(
        "published",
        help="How scores count: as the published numbers, or as the MATLAB toolkits of LaSOT, LaSOT_Extension, TNL2K, "
        "VastTrack, OTB, UAV123, UAVDT and DTB70 do, for these sets.",
    )
    csv: Path | None = option(None, kind="file", help="File for the scores of every sequence, fractions of 1.")

    def check_files(self, *others: Path) -> None:
        """Raise a `UserError` now if the file, or others of the command, could not be written in the end."""
        check_can_write(*others, *([self.csv] if self.csv else ()))

    def write_csv(self, scored: Sequence[Sequence[Entry]]) -> None:
        """Write the scores of test sets, each with never moving at its end, if a file is wanted."""
        if self.csv is not None:
            with atomic_file(self.csv) as file:
                file.write(sequences_csv(scored).encode("utf-8"))
            say(f"scores of sequences: {self.csv}")


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputOptions(ScoringOptions):
    """What comes out, and where."""

    out: Path | None = option(None, kind="folder", help="Where results go; <run>/eval/<checkpoint> by default.")
    overwrite: bool = option(False, help="Forget the results and zips that are there.")
    video: str | None = option(None, metavar="NAME", help="Sequence of the video; one is chosen by default.")
    no_video: bool = option(False, help="Write no video.")

    def check_video(self, sets: Sequence[TestSet]) -> None:
        """Refuse a video that cannot be made before anything is tracked."""
        if self.video is None:
            return
        if self.no_video:
            raise UserError("--video and --no-video: give one of them")
        if self.video not in (known := {clip.name for item in sets for clip in item.clips}):
            raise UserError(f"--video {self.video}: none of the sequences that are tracked{nearest(self.video, known)}")


def evaluation_folder(run: Path | None, folder: Path | None, name: str) -> Path:
    """Return an evaluation's folder: the one that the option `name` gives, or that of a run's last checkpoint."""
    if run is not None and folder is not None:
        raise UserError(f"--run and {name}: give one of them")
    return folder or default_out(run_weights(run))
