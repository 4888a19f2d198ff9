"""An index is never older than its tree, never half there, and never in the way."""

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lorat.prep.annotations import index as index_module
from lorat.prep.annotations.clips import annotations_fingerprint
from lorat.prep.annotations.exclude import Exclusions
from lorat.prep.annotations.index import indexed_clips
from lorat.prep.toy.write import ToyWorldConfig, write_toyworld
from lorat.prep.trees.base.clip import Clip, FrameFiles, Track
from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.jpeg import encode
from tests.prep.annotations.same import fresh, same_clips

LASOT = DATASETS["lasot"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    raw = tmp_path_factory.mktemp("world") / "raw"
    sizes = {"width": 128, "height": 96, "lasot_length": 16, "lasot_train": 4, "lasot_test": 1}
    sizes |= {"lasot_ext": 1, "trackingnet_train": 3, "trackingnet_length": 10}
    others = ("got10k_train", "got10k_val", "got10k_test", "trackingnet_test")
    others += ("coco_train", "coco_val", "tnl2k_train", "tnl2k_test")
    write_toyworld(raw, ToyWorldConfig(**sizes, **dict.fromkeys(others, 0)), workers=1)
    return raw


@pytest.fixture
def lasot(world, tmp_path):
    """A LaSOT tree of one's own, to change."""
    return shutil.copytree(world / "LaSOT", tmp_path / "LaSOT")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "index"


@pytest.fixture
def no_reading(monkeypatch):
    def refuse(*_):
        raise AssertionError("the tree was read")

    return lambda: monkeypatch.setattr(index_module, "read_clips", refuse)


def vot_tree(folder):
    """Six frames of one sequence."""
    (folder / "bag/color").mkdir(parents=True)
    jpeg = encode(np.full((48, 64, 3), 90, np.uint8))
    for number in range(1, 7):
        (folder / f"bag/color/{number:08d}.jpg").write_bytes(jpeg)
    (folder / "bag/groundtruth.txt").write_text("5,4,20,10\n" * 6)
    return folder


def test_an_index_is_a_sequence(world):
    clips = indexed_clips(LASOT, "train", world / "LaSOT")
    assert len(clips) == 4
    assert clips[-1].name == clips[3].name == [clip.name for clip in clips][-1]
    assert [clip.name for clip in clips[1:3]] == [clips[1].name, clips[2].name]
    with pytest.raises(IndexError):
        clips[4]
    with pytest.raises(ValueError, match="read-only"):
        clips[0].tracks[0].boxes[0] = 0


def test_an_unchanged_tree_is_not_read_again(lasot, no_reading, monkeypatch):
    first = indexed_clips(LASOT, "train", lasot)
    no_reading()
    same_clips(indexed_clips(LASOT, "train", lasot), list(first))
    monkeypatch.chdir(lasot.parent)
    assert indexed_clips(LASOT, "train", Path("LaSOT")).path == first.path


def change_a_box(root):
    file = next(root.rglob("groundtruth.txt"))
    file.write_text(file.read_text().replace("1", "2", 1))


def keep_the_size_but_not_the_time(root):
    file = next(root.rglob("out_of_view.txt"))
    before = file.stat()
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def add_a_sequence(root):
    folder = next(root.glob("*/*-*"))
    shutil.copytree(folder, folder.with_name(f"{folder.parent.name}-20"))
    names = (root / "training_set.txt").read_text()
    (root / "training_set.txt").write_text(f"{names.rstrip()}\n{folder.parent.name}-20\n")


def add_a_folder(root):
    (root / "zebra").mkdir()


def remove_a_sequence(root):
    names = (root / "training_set.txt").read_text().split()
    shutil.rmtree(root / names[0].rpartition("-")[0] / names[0])


def remove_the_list(root):
    (root / "training_set.txt").unlink()


@pytest.mark.parametrize(
    "change",
    [change_a_box, keep_the_size_but_not_the_time, add_a_sequence, add_a_folder, remove_a_sequence, remove_the_list],
)
def test_a_changed_tree_is_read_again(lasot, change, no_reading):
    indexed_clips(LASOT, "train", lasot)
    change(lasot)
    again = indexed_clips(LASOT, "train", lasot)
    same_clips(again, fresh(LASOT, "train", lasot))
    no_reading()
    indexed_clips(LASOT, "train", lasot)


def test_other_readers_of_the_tree_see_their_own_changes(world, tmp_path):
    root = shutil.copytree(world / "TrackingNet", tmp_path / "TrackingNet")
    dataset = DATASETS["trackingnet"]
    before = len(indexed_clips(dataset, "train", root))
    anno = next(root.glob("TRAIN_*/anno/*.txt"))
    shutil.copytree(anno.parents[1] / "frames" / anno.stem, anno.parents[1] / "frames" / "new")
    assert len(indexed_clips(dataset, "train", root)) == before
    shutil.copy(anno, anno.with_stem("new"))
    assert len(indexed_clips(dataset, "train", root)) == before + 1
    shutil.copytree(root / "TRAIN_0", root / "TRAIN_11")
    for file in (root / "TRAIN_11/anno").iterdir():
        (root / "TRAIN_11/frames" / file.stem).rename(root / "TRAIN_11/frames" / f"x{file.stem}")
        file.rename(file.with_stem(f"x{file.stem}"))
    assert len(indexed_clips(dataset, "train", root)) > before + 1


def test_exclusions_have_an_index_of_their_own(lasot):
    whole = indexed_clips(LASOT, "train", lasot)
    dropped, cut = whole[0].name, whole[1].name
    some = Exclusions("lasot-train", frozenset({dropped}))
    less = indexed_clips(LASOT, "train", lasot, some)
    assert [clip.name for clip in less] == [clip.name for clip in whole][1:]
    number = whole[1].first
    frames = Exclusions("lasot-train", frames={cut: frozenset({number})})
    shorter = indexed_clips(LASOT, "train", lasot, frames)
    assert shorter[1].first > number
    assert len({whole.path, less.path, shorter.path}) == 3
    assert len({whole.fingerprint, less.fingerprint, shorter.fingerprint}) == 3
    same_clips(indexed_clips(LASOT, "train", lasot), list(whole))


def test_a_damaged_sequence_is_left_out_by_name_and_an_excluded_one_is_not_opened(lasot):
    names = (lasot / "training_set.txt").read_text().split()
    (broken,) = lasot.glob(f"*/{names[0]}/groundtruth.txt")
    broken.write_text("not a box\n")
    for _ in range(2):  # from the tree, and from the index
        clips = indexed_clips(LASOT, "train", lasot)
        assert [clip.name for clip in clips] == names[1:] and list(clips.lost) == names[:1]
        assert "not a box" in clips.lost[names[0]]
    some = Exclusions("lasot-train", frozenset(names[:1]))
    assert [clip.name for clip in indexed_clips(LASOT, "train", lasot, some)] == names[1:]


def test_a_tree_of_which_all_is_excluded_is_an_error_that_says_so(lasot):
    names = frozenset((lasot / "training_set.txt").read_text().split())
    with pytest.raises(UserError, match="all sequences of lasot-train that are there are excluded"):
        indexed_clips(LASOT, "train", lasot, Exclusions("lasot-train", names))


def test_an_index_crosses_to_another_process_as_its_path(lasot):
    clips = indexed_clips(LASOT, "train", lasot)
    frozen = pickle.dumps(clips)
    assert len(frozen) < 500
    thaw = pickle.loads
    same_clips(thaw(frozen), list(clips))
    change_a_box(lasot)
    assert indexed_clips(LASOT, "train", lasot).fingerprint != clips.fingerprint
    same_clips(thaw(frozen), list(clips))  # who uses the old one goes on with it
    clips.path.write_bytes(indexed_clips(LASOT, "train", lasot).path.read_bytes())
    with pytest.raises(UserError, match="changed while they were used"):
        thaw(frozen)
    clips.path.unlink()
    with pytest.raises(UserError, match="LORAT_CACHE"):
        thaw(frozen)


def test_an_open_index_outlives_its_replacement(lasot):
    clips = indexed_clips(LASOT, "train", lasot)
    before = fresh(LASOT, "train", lasot)
    change_a_box(lasot)
    assert indexed_clips(LASOT, "train", lasot).fingerprint != clips.fingerprint
    same_clips(clips, before)


PROGRAM = """
import sys, time
from pathlib import Path
from lorat.prep.annotations.index import indexed_clips
from lorat.prep.trees.registry import DATASETS

def progress(done, total):
    print(done, total, flush=True)
    time.sleep(float(sys.argv[2]))

clips = indexed_clips(DATASETS["lasot"], "train", Path(sys.argv[1]), progress=progress)
print(clips.fingerprint)
"""


def start(root, pause):
    command = [sys.executable, "-c", PROGRAM, str(root), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_killed_writer_leaves_nothing_that_counts(lasot, cache):
    for lines in (2, 5, 7):  # while it reads, while it writes
        with start(lasot, 0.5) as process:
            for _ in range(lines):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        assert not list(cache.glob("*.index"))
    left = [file for file in cache.iterdir() if file.name.startswith(".")]
    assert left  # half an index, beside its name
    for file in left:
        os.utime(file, (0, 0))
    same_clips(indexed_clips(LASOT, "train", lasot), fresh(LASOT, "train", lasot))
    assert [file.suffix for file in cache.iterdir()] == [".index"]


def test_two_processes_may_index_at_once(lasot, cache):
    processes = [start(lasot, 0.05) for _ in range(2)]
    found = {process.communicate()[0].split()[-1] for process in processes}
    assert found == {annotations_fingerprint(fresh(LASOT, "train", lasot))}
    assert [file.suffix for file in cache.iterdir()] == [".index"]


def test_one_tree_has_one_index_and_each_content_a_name(lasot, cache):
    before = indexed_clips(LASOT, "train", lasot).path
    file = next(lasot.rglob("groundtruth.txt"))
    text, stat = file.read_text(), file.stat()
    change_a_box(lasot)
    assert indexed_clips(LASOT, "train", lasot).path != before
    file.write_text(text)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert indexed_clips(LASOT, "train", lasot).path == before
    assert len(list(cache.iterdir())) == 2


def test_an_index_that_is_there_is_not_written_again(tmp_path, files_read):
    silent = replace(DATASETS["vot"], name="silent", read=files_read.unnoted)
    root = vot_tree(tmp_path / "tree")
    file = indexed_clips(silent, "all", root).path
    inode = file.stat().st_ino
    assert indexed_clips(silent, "all", root).path == file
    assert (files_read.count, file.stat().st_ino) == (2, inode)  # read again, since nothing tells whether it changed


def test_what_nobody_used_for_a_month_goes(lasot, cache):
    old, used = indexed_clips(LASOT, "train", lasot).path, indexed_clips(LASOT, "test", lasot).path
    for file in (old, used):
        os.utime(file, (0, 0))
    indexed_clips(LASOT, "test", lasot)
    change_a_box(lasot)
    indexed_clips(LASOT, "train", lasot)
    assert used.exists() and not old.exists()


def first_image(root, number=1):
    name = (root / "training_set.txt").read_text().split()[0]
    return root / name.rpartition("-")[0] / name / "img" / f"{number:08d}.jpg"


def test_a_damaged_first_image_costs_no_sequence(lasot, caplog):
    first_image(lasot).write_bytes(b"damaged")
    clips = indexed_clips(LASOT, "train", lasot)
    assert (len(clips), clips.lost) == (4, {})
    assert clips[0].size == (128, 96)
    assert "00000001.jpg: no readable" in caplog.text and "from 00000002.jpg" in caplog.text


def test_a_sequence_without_readable_images_is_lost_until_it_is_repaired(lasot):
    images = [first_image(lasot, number) for number in range(1, 6)]
    whole = {image: image.read_bytes() for image in images}
    images[0].unlink()
    for image in images[1:]:
        image.write_bytes(b"")
    clips = indexed_clips(LASOT, "train", lasot)
    assert len(clips) == 3
    assert list(clips.lost) == [images[0].parents[1].name]
    assert "00000001.jpg: cannot be read" in clips.lost[images[0].parents[1].name]
    images[3].write_bytes(whole[images[3]])
    assert not indexed_clips(LASOT, "train", lasot).lost


def test_a_tree_without_a_visible_object_is_an_error_that_leaves_nothing(tmp_path, cache):
    root = vot_tree(tmp_path / "tree")
    (root / "bag/groundtruth.txt").write_text("0,0,0,0\n" * 6)
    with pytest.raises(UserError, match="no sequence of vot-all has a visible object"):
        indexed_clips(DATASETS["vot"], "all", root)
    shutil.rmtree(root / "bag/color")
    (root / "bag/color").mkdir()
    for number in range(1, 7):
        (root / f"bag/color/{number:08d}.jpg").write_bytes(b"x")
    (root / "bag/groundtruth.txt").write_text("1,1,9,9\n" * 6)
    with pytest.raises(UserError, match=r"1 lost: .*00000001\.jpg: no readable"):
        indexed_clips(DATASETS["vot"], "all", root)
    assert not list(cache.iterdir())


@pytest.mark.parametrize(("images", "used"), [(5, True), (4, True), (3, False), (2, False)])
def test_one_or_two_rows_without_an_image_are_cut_and_told_and_more_cost_the_sequence(tmp_path, caplog, images, used):
    root = vot_tree(tmp_path / "tree")
    shutil.copytree(root / "bag", root / "ball")
    for number in range(images + 1, 7):
        (root / f"ball/color/{number:08d}.jpg").unlink()
    for _ in range(2):  # from the tree, and from the index
        caplog.clear()
        clips = indexed_clips(DATASETS["vot"], "all", root)
        assert {clip.name: len(clip.frames) for clip in clips} == {"bag": 6} | ({"ball": images} if used else {})
        assert list(clips.lost) == ([] if used else ["ball"])
        assert (f"{images} images but 6 boxes of ball; only the first {images} frames" in caplog.text) == used


def test_a_cache_that_cannot_be_written_is_said_before_the_tree_is_read(lasot, tmp_path, no_reading):
    (tmp_path / "file").touch()
    no_reading()
    with pytest.raises(UserError, match=r"file/index: cannot be written \(.*; set LORAT_CACHE"):
        indexed_clips(LASOT, "train", lasot, cache=tmp_path / "file")


def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(lasot, cache, monkeypatch):
    def fill_up(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fill_up)
    with pytest.raises(UserError, match=r"\.index: cannot be written \(No space.*LORAT_CACHE"):
        indexed_clips(LASOT, "train", lasot)
    assert not list(cache.iterdir())


def test_a_file_that_is_no_index_is_written_anew(lasot):
    clips = indexed_clips(LASOT, "train", lasot)
    whole = clips.path.read_bytes()
    for damaged in (b"", whole[:8], whole[:-1], whole[:500], b"x" * 500, whole + b"x"):
        clips.path.write_bytes(damaged)
        same_clips(indexed_clips(LASOT, "train", lasot), fresh(LASOT, "train", lasot))
        assert clips.path.read_bytes() == whole


def test_a_reader_of_ones_own_is_watched(tmp_path, files_read):
    root = vot_tree(tmp_path / "tree")
    noting = replace(DATASETS["vot"], name="mine", read=files_read.through_helpers)
    indexed_clips(noting, "all", root)
    indexed_clips(noting, "all", root)
    assert files_read.count == 1
    silent = replace(noting, name="silent", read=files_read.unnoted)
    indexed_clips(silent, "all", root)
    indexed_clips(silent, "all", root)
    assert files_read.count == 3


@pytest.fixture
def files_read():
    class Reader:
        count = 0

        def through_helpers(self, dataset, split, root):
            self.count += 1
            return [replace(c, dataset=dataset.name) for c in read_clips(DATASETS["vot"], split, root)]

        def unnoted(self, dataset, split, root):
            self.count += 1
            return [replace(clip, dataset=dataset.name) for clip in self.clips(root)]

        @staticmethod
        def clips(root):
            xywh = np.loadtxt(root / "bag/groundtruth.txt", delimiter=",")
            boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
            frames = FrameFiles(root / "bag/color", range(1, 7), "%08d.jpg")
            return [Clip("", "all", "bag", frames, (Track(boxes, xywh[:, 2] > 0),), 6)]

    return Reader()


def test_another_version_reads_anew(lasot, monkeypatch):
    read = []
    through = index_module.read_clips
    monkeypatch.setattr(index_module, "read_clips", lambda *a: read.append(1) or through(*a))
    for version in (1, 1, 2, 2):
        monkeypatch.setattr(index_module, "_VERSION", version)
        indexed_clips(LASOT, "train", lasot)
    assert len(read) == 2


def test_progress_counts_sequences(lasot):
    calls = []
    indexed_clips(LASOT, "train", lasot, progress=lambda *state: calls.append(state))
    assert calls == [(n, 4) for n in (1, 2, 3, 4)] * 2
