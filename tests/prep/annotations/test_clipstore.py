"""Clips and columns come back as they were written, and a part of a file is never taken for it."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorat.prep.annotations.clipstore import ClipIndex, write_clips
from lorat.prep.annotations.columns import ColumnWriter, NotColumns, open_columns
from lorat.prep.annotations.fingerprint import annotations_fingerprint
from lorat.prep.trees.base.clip import Clip, FrameFiles, Track

ABOUT = {"dataset": "a-b", "split": "train", "lost": {}, "removed": {}}

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
        writer = ColumnWriter(file)
        counts = write_clips(writer, values)
        totals = {"frames": counts.frames, "object_frames": counts.object_frames}
        writer.finish({**ABOUT, **totals, "fingerprint": counts.fingerprint})
    return ClipIndex(path)


@settings(deadline=None)
@given(st.lists(clips(), max_size=4))
def test_clips_of_any_names_come_back_as_they_were(values):
    with tempfile.TemporaryDirectory() as folder:
        index = stored(Path(folder) / "x.index", values)
        assert len(index) == len(values)
        for found, given_clip in zip(index, values, strict=True):
            assert found.frames == given_clip.frames
            for name in ("dataset", "split", "name", "annotated", "size", "first"):
                assert getattr(found, name) == getattr(given_clip, name)
            for one, other in zip(found.tracks, given_clip.tracks, strict=True):
                np.testing.assert_array_equal(one.boxes, other.boxes)
                np.testing.assert_array_equal(one.visible, other.visible)
                assert (one.cover is None) == (other.cover is None)
                np.testing.assert_array_equal(one.cover, other.cover)
        assert index.fingerprint == annotations_fingerprint(values)
        assert index.frames == sum(len(clip.frames) for clip in values)
        seen = sum(int(track.visible.sum()) for clip in values for track in clip.tracks)
        assert index.object_frames == seen


def write_some(path):
    arrays = {"a": np.arange(7.0), "b": np.zeros((0, 4), np.int64), "c": np.ones((3, 2), np.bool_)}
    with path.open("wb") as file:
        writer = ColumnWriter(file)
        for name, values in arrays.items():
            writer.put(name, values)
        writer.finish({"says": "é\udcff"})
    return arrays


def test_columns_come_back_read_only_and_aligned(tmp_path):
    arrays = write_some(tmp_path / "x")
    columns = open_columns(tmp_path / "x")
    assert columns.header == {"says": "é\udcff"}
    for name, values in arrays.items():
        found = columns.arrays[name]
        assert found.dtype == values.dtype and not found.flags.writeable
        np.testing.assert_array_equal(found, values)
        assert found.size == 0 or found.ctypes.data % 64 == 0


def test_no_part_of_a_file_is_taken_for_it(tmp_path):
    write_some(tmp_path / "x")
    whole = (tmp_path / "x").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "x").write_bytes(whole[:length])
        with pytest.raises((NotColumns, ValueError)):
            open_columns(tmp_path / "x")
    for start in range(1, 64):
        (tmp_path / "x").write_bytes(whole[start:])
        with pytest.raises(NotColumns):
            open_columns(tmp_path / "x")


def test_a_file_before_its_end_is_no_file_of_columns(tmp_path):
    with (tmp_path / "x").open("wb") as file:
        ColumnWriter(file).put("a", np.arange(9))
    with pytest.raises(NotColumns, match="is not whole"):
        open_columns(tmp_path / "x")


def test_rows_of_another_shape_are_refused():
    writer = ColumnWriter(io.BytesIO())
    with (
        pytest.raises(ValueError, match=r"rows of shape \(3,\) in a column of \(4,\)"),
        writer.column("a", np.dtype("<f8"), (4,)) as rows,
    ):
        rows.append(np.zeros((2, 3)))
