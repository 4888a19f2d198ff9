"""Clips come back as they were written, and a part of a file is never taken for it."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorat.prep.annotations.clips import ClipIndex, annotations_fingerprint, write_clips
from lorat.prep.trees.base.clip import Clip, FrameFiles, Track
from tests.prep.annotations.same import same_clips

ABOUT = {"dataset": "a-b", "split": "train", "lost": {}, "warned": [], "odd": [], "outside": 0}

# Whatever a file name can hold, bytes that are not UTF-8 among it.
odd_names = st.text(
    st.one_of(
        st.characters(blacklist_characters="\0/", blacklist_categories=("Cs",)),
        st.sampled_from(" -_.'\"%\n\t\udcff\udc80é漢"),
    ),
    min_size=1,
    max_size=12,
)
coordinates = st.floats(-1e6, 1e6) | st.just(float("nan"))


@st.composite
def clips(draw):
    if draw(st.booleans()):
        start, step = draw(st.integers(0, 10**9)), draw(st.integers(1, 5))
        names = range(start, start + step * draw(st.integers(1, 5)), step)
        frames = FrameFiles(Path("/a") / draw(odd_names), names, "%08d.jpg")
    else:
        listed = tuple(draw(st.lists(odd_names, min_size=1, max_size=5)))
        frames = FrameFiles(Path(draw(odd_names)), listed)
    count = len(frames)
    tracks = []
    for _ in range(draw(st.integers(1, 3))):
        row = st.tuples(*[coordinates] * 4)
        boxes = np.array(draw(st.lists(row, min_size=count, max_size=count)))
        visible = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
        levels = st.lists(st.integers(0, 8), min_size=count, max_size=count)
        cover = np.array(draw(levels), np.int64) if draw(st.booleans()) else None
        tracks.append(Track(boxes, visible, cover))
    size = draw(st.tuples(st.integers(1, 9999), st.integers(1, 9999)))
    first = draw(st.integers(0, 10**6))
    return Clip("a-b", "train", draw(odd_names), frames, tuple(tracks), count, size, first)


def stored(path, values):
    with path.open("wb") as file:
        digest = write_clips(file, values, ABOUT, {"says": "é\udcff"})
    index = ClipIndex(path)
    assert index.digest == digest
    return index


@settings(deadline=None)
@given(st.lists(clips(), max_size=4))
def test_clips_of_any_names_come_back_as_they_were(values):
    with tempfile.TemporaryDirectory() as folder:
        index = stored(Path(folder) / "x.index", values)
        assert len(index) == len(values)
        same_clips(index, values)
        assert index.fingerprint == annotations_fingerprint(values)
        assert index.frames == sum(len(clip.frames) for clip in values)
        seen = sum(int(track.visible.sum()) for clip in values for track in clip.tracks)
        assert index.object_frames == seen


def some_clip(frames=3):
    boxes = np.arange(4.0 * frames).reshape(frames, 4)
    files = FrameFiles(Path("/a"), range(frames), "%d.jpg")
    track = Track(boxes, np.ones(frames, bool))
    return Clip("a-b", "train", "x", files, (track,), frames, (64, 48))


def test_arrays_are_read_only_and_aligned_and_what_is_left_besides_comes_back(tmp_path):
    index = stored(tmp_path / "x", [some_clip(), some_clip(5)])
    boxes = index[1].tracks[0].boxes
    assert not boxes.flags.writeable and boxes.flags.aligned
    assert index.extra() == {"says": "é\udcff"}
    assert len(stored(tmp_path / "none", [])) == 0


def test_no_part_of_a_file_is_taken_for_it(tmp_path):
    stored(tmp_path / "x", [some_clip()])
    whole = (tmp_path / "x").read_bytes()
    parts = [whole[:length] for length in range(len(whole))]
    parts += [whole[start:] for start in range(1, len(whole))]
    for part in (*parts, whole + b"x", whole + bytes(8), b"x" * 500):
        (tmp_path / "y").unlink(missing_ok=True)
        (tmp_path / "y").write_bytes(part)
        with pytest.raises(ValueError, match="no whole index"):
            ClipIndex(tmp_path / "y")


def test_a_digest_is_of_all_that_an_index_holds(tmp_path):
    clip = some_clip()
    track = replace(clip.tracks[0], cover=np.array([1, 2, 3]))
    others = [
        clip,
        replace(clip, frames=replace(clip.frames, folder=Path("/b"))),
        replace(clip, tracks=(track,)),
        replace(clip, tracks=(replace(track, cover=np.array([1, 2, 4])),)),
        replace(clip, tracks=(replace(clip.tracks[0], boxes=clip.tracks[0].boxes + 1),)),
    ]
    assert len({stored(tmp_path / "x", [other]).digest for other in others}) == len(others)
