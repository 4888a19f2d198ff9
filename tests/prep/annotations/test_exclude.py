"""What an audit found is left out: sequences dropped, frames not visible, nothing else touched."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorat.prep.annotations.cleaning import clean
from lorat.prep.annotations.exclude import Exclusions, exclude_clips, load_exclusions
from lorat.prep.audit.report import Counts, Finding, Severity, SplitAudit, save_report
from lorat.prep.trees.base.clip import Clip, FrameFiles, Track
from lorat.shards.base.errors import UserError

FRAMES = 6


def clip(name: str = "seq", split: str = "train") -> Clip:
    boxes = np.tile([1.0, 1.0, 9.0, 9.0], (FRAMES, 1)) + np.arange(FRAMES)[:, None]
    cover = np.arange(FRAMES)
    track = Track(boxes, np.ones(FRAMES, bool), cover)
    frames = FrameFiles(Path(name), range(1, FRAMES + 1), "%d.jpg")
    return Clip("toy", split, name, frames, (track,), FRAMES)


def frames_out(*numbers: int) -> Exclusions:
    return Exclusions("toy-train", frames={"seq": frozenset(numbers)})


def test_a_damaged_sequence_is_dropped_and_one_without_findings_is_the_same_object():
    out, whole = Exclusions("toy-train", frozenset({"a"}), {"seq": frozenset({2})}), clip("other")
    (kept,) = exclude_clips([clip("a"), whole], out)
    assert kept is whole


@settings(deadline=None)
@given(st.sets(st.integers(0, FRAMES - 1), min_size=1))
def test_no_excluded_frame_is_visible_and_all_others_are_as_before(numbers):
    before = clip()
    kept = exclude_clips([before], frames_out(*numbers))
    rest = sorted(set(range(FRAMES)) - numbers)
    assert len(kept) == bool(rest)
    assert before.tracks[0].visible.all()  # the argument is unchanged
    if not rest:
        return
    (after,) = kept
    visible = after.first + np.flatnonzero(after.tracks[0].visible)
    assert after.first == rest[0] and visible.tolist() == rest
    for i, path in enumerate(after.frames):
        assert path == before.frames[after.first + i]
    track, whole = after.tracks[0], before.tracks[0]
    np.testing.assert_array_equal(track.boxes, whole.boxes[after.first :])
    np.testing.assert_array_equal(track.cover, whole.cover[after.first :])
    assert after.annotated == len(after.frames) == FRAMES - after.first


@settings(deadline=None)
@given(st.sets(st.integers(0, FRAMES - 1), max_size=FRAMES - 1))
def test_excluding_before_or_after_cleaning_leaves_the_same(numbers):
    def cleaned(clips: list[Clip]) -> list[Clip]:
        return [c for c in (clean(each, (64, 64)) for each in clips) if c is not None]

    out = frames_out(*numbers)
    before = cleaned(exclude_clips([clip()], out))
    after = cleaned(exclude_clips(cleaned([clip()]), out))
    for one, other in zip(before, after, strict=True):
        assert (one.first, list(one.frames)) == (other.first, list(other.frames))
        np.testing.assert_array_equal(one.tracks[0].boxes, other.tracks[0].boxes)


def damage(*frames: int, severity: Severity = "damage") -> Finding:
    return Finding(kind="k", severity=severity, message="m", frames=list(frames))


@pytest.mark.parametrize(
    ("findings", "sequences", "frames"),
    [
        ([damage(1, severity="note")], set(), set()),
        ([damage(severity="note")], set(), set()),
        ([damage()], {"seq"}, set()),
        ([damage(1), damage(3, 4)], set(), {1, 3, 4}),
        ([damage(1), damage()], {"seq"}, set()),
    ],
)
def test_only_damage_excludes(tmp_path, findings, sequences, frames):
    audit = SplitAudit(root="/raw", deep=False, counts=Counts(), split=[], sequences={"seq": findings})
    save_report(tmp_path / "check.json", {"toy-train": audit})
    out = load_exclusions(tmp_path / "check.json")["toy-train"]
    assert out.sequences == sequences
    assert out.frames.get("seq", frozenset()) == frames


def test_the_fingerprint_says_what_is_left_out_and_nothing_else():
    out = frames_out(1, 2)
    assert out.fingerprint() == frames_out(2, 1).fingerprint() != frames_out(1).fingerprint()
    assert replace(out, split="toy-val").fingerprint() != out.fingerprint()
    assert frames_out().fingerprint() == Exclusions("toy-train").fingerprint() == ""
    # It stands in the manifests of builds: another hash would refuse to go on with them.
    more = replace(out, sequences=frozenset({"a"}))
    assert more.fingerprint() == "4fb352f9473b7cff"


def test_a_missing_report_is_a_mistake_that_names_it(tmp_path):
    with pytest.raises(UserError, match=r"none\.json"):
        load_exclusions(tmp_path / "none.json")
