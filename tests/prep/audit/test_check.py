"""An audit names what is damaged, sequence by sequence, and nothing else."""

import json
import shutil
from array import array
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorat.prep.audit.check import audit, check_sequence, count_boxes
from lorat.prep.audit.images import ImageFacts, see_images
from lorat.prep.audit.report import SplitAudit, load_report, save_report
from lorat.prep.trees.base.clip import Clip, FrameFiles, Track
from lorat.prep.trees.registry import DATASETS
from lorat.prep.trees.sources import TreeSplit
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.jpeg import encode

SIZE = (64, 48)
NAMES = ("airplane-1", "airplane-9", "airplane-13", "airplane-15", "basketball-1")  # LaSOT's tests


def image(size: tuple[int, int] = SIZE) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return encode(noise)


@pytest.fixture(scope="module")
def whole_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("LaSOT")
    data = image()
    for name in NAMES:
        folder = root / name.partition("-")[0] / name
        (folder / "img").mkdir(parents=True)
        for number in range(1, 9):
            (folder / "img" / f"{number:08d}.jpg").write_bytes(data)
        (folder / "groundtruth.txt").write_text("11,6,20,15\n" * 8)
        for flags in ("full_occlusion", "out_of_view"):
            (folder / f"{flags}.txt").write_text(",".join("0" * 8))
    return root


@pytest.fixture
def tree(whole_tree: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_tree, tmp_path / "LaSOT"))


def audited(root: Path, name: str = "lasot-test", **options) -> SplitAudit:
    dataset, split = DATASETS[name.partition("-")[0]], name.partition("-")[2]
    source = TreeSplit(dataset, split, root)
    return audit(source, **options)


def damage(result: SplitAudit) -> dict[str, list[tuple[str, list[int]]]]:
    found = {
        name: [(f.kind, f.frames) for f in findings if f.severity == "damage"]
        for name, findings in result.sequences.items()
    }
    return {name: kinds for name, kinds in found.items() if kinds}


def frame(root: Path, name: str, number: int) -> Path:
    return root / name.partition("-")[0] / name / "img" / f"{number:08d}.jpg"


def spoil(root: Path) -> None:
    """One kind of damage in each of the first four sequences."""
    middle = frame(root, NAMES[0], 4)
    middle.write_bytes(middle.read_bytes()[:-400])
    truth = root / "airplane" / NAMES[1] / "groundtruth.txt"
    truth.write_text(truth.read_text().replace("11,6,20,15\n", "11,6,twenty,15\n", 1))
    frame(root, NAMES[2], 8).unlink()
    (root / "airplane" / NAMES[3] / "out_of_view.txt").write_text("0,0,0")


def test_a_whole_tree_has_no_damage_and_fewer_sequences_are_a_note(whole_tree):
    result = audited(whole_tree, deep=True)
    assert not damage(result) and result.damaged == 0
    assert (result.counts.sequences, result.counts.frames, result.counts.decoded) == (5, 40, 40)
    (note,) = result.split
    assert (note.kind, note.severity) == ("sequence count", "note") and "5 of 280" in note.message


@pytest.mark.parametrize("workers", [1, 2])
def test_a_deep_check_finds_exactly_what_is_damaged(tree, workers):
    spoil(tree)
    result = audited(tree, deep=True, workers=workers)
    assert damage(result) == {
        NAMES[0]: [("damaged image", [3])],
        NAMES[1]: [("annotations", [])],
        NAMES[2]: [("missing image", [7])],
        NAMES[3]: [("annotations", [])],
    }
    assert result.counts.sequences == 5 and result.damaged == 4
    messages = {name: found[0].message for name, found in result.sequences.items()}
    assert "00000004.jpg" in messages[NAMES[0]]
    assert "line 1" in messages[NAMES[1]] and "'11,6,twenty,15'" in messages[NAMES[1]]
    assert "out_of_view.txt: 3 values for 8 boxes" in messages[NAMES[3]]


def test_without_deep_only_images_between_the_ends_are_not_decoded(tree):
    spoil(tree)
    result = audited(tree)
    assert set(damage(result)) == set(NAMES[1:4])
    assert result.counts.decoded == 5  # both ends of two whole sequences, the first of a third


def test_an_image_that_is_missing_in_the_middle_is_found_without_deep(tree):
    frame(tree, NAMES[0], 3).unlink()
    frame(tree, NAMES[0], 5).unlink()
    result = audited(tree)
    assert damage(result) == {NAMES[0]: [("missing image", [2, 4])]}
    assert "and 1 more" in result.sequences[NAMES[0]][0].message


@pytest.mark.parametrize("number", [1, 8])
def test_the_first_and_the_last_image_are_decoded(tree, number):
    frame(tree, NAMES[0], number).write_bytes(b"\xff\xd8 no picture")
    assert damage(audited(tree)) == {NAMES[0]: [("damaged image", [number - 1])]}


def test_a_sequence_without_images_is_damaged_as_a_whole(tree):
    images = frame(tree, NAMES[0], 1).parent
    shutil.rmtree(images)
    assert damage(result := audited(tree)) == {NAMES[0]: [("missing image", [])]}
    assert result.sequences[NAMES[0]][0].message == f"{images}: none of the 8 images is there; restore them"
    (images / "img").mkdir(parents=True)
    assert "is there, but folders: img; restore" in audited(tree).sequences[NAMES[0]][0].message


def test_a_first_frame_without_object_is_damage_where_trackers_start_there(tree):
    folder = tree / "airplane" / NAMES[0]
    (folder / "out_of_view.txt").write_text("1,0,0,0,0,0,0,0")
    assert damage(audited(tree)) == {NAMES[0]: [("first frame", [0])]}
    (tree / "training_set.txt").write_text("\n".join(NAMES))
    result = audited(tree, "lasot-train")
    kinds = {(f.kind, f.severity) for f in result.sequences[NAMES[0]]}
    assert not damage(result) and ("first frame", "note") in kinds


def test_annotations_that_were_cut_are_damage_and_a_shorter_edition_is_a_note(tree):
    folder = tree / "airplane" / NAMES[0]
    (folder / "groundtruth.txt").write_text("11,6,20,15\n" * 5)
    for flags in ("full_occlusion", "out_of_view"):
        (folder / f"{flags}.txt").write_text("0,0,0,0,0")
    result = audited(tree)
    assert damage(result) == {NAMES[0]: [("frame count", [])]}
    assert "2,788" in result.sequences[NAMES[0]][-1].message
    assert [f.kind for f in result.sequences[NAMES[4]]] == ["frame count"]  # its images are cut too


def test_a_frame_of_another_size_is_a_note(tree):
    frame(tree, NAMES[0], 5).write_bytes(image((32, 32)))
    result = audited(tree, deep=True)
    (note,) = (f for f in result.sequences[NAMES[0]] if f.kind == "frame size")
    assert note.frames == [4] and not damage(result)


def test_a_tree_that_cannot_be_read_at_all_is_damage_of_the_split(tmp_path):
    (tmp_path / "TRAIN_0").mkdir()
    for name, root in (("trackingnet-train", tmp_path), ("otb-all", tmp_path / "TRAIN_0")):
        result = audited(root, name)
        assert [f.severity for f in result.split] == ["damage"] and result.damaged == 1


def test_got10k_meta_data_of_another_size_are_only_a_note(tmp_path):
    folder = tmp_path / "val" / "GOT-10k_Val_000001"
    folder.mkdir(parents=True)
    (tmp_path / "val" / "list.txt").write_text(folder.name)
    for number in (1, 2):
        (folder / f"{number:08d}.jpg").write_bytes(image())
    (folder / "groundtruth.txt").write_text("1,2,20,20\n" * 2)
    (folder / "absence.label").write_text("0\n0\n")
    (folder / "cover.label").write_text("8\n8\n")
    (folder / "meta_info.ini").write_text("[METAINFO]\nresolution: (1920, 1080)\n")
    result = audited(tmp_path, "got10k-val")
    (note,) = result.sequences[folder.name]
    assert (note.kind, note.severity) == ("stated size", "note")
    assert "1920 x 1080" in note.message and "64 x 48" in note.message


def test_a_coco_image_of_another_size_than_annotated_is_damage(tmp_path):
    box = '{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}'
    row = '{"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}'
    text = f'{{"images": [{row}], "annotations": [{box}]}}'
    for name in ("annotations", "val2017"):
        (tmp_path / name).mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text(text)
    (tmp_path / "val2017" / "a.jpg").write_bytes(image())
    assert damage(audited(tmp_path, "coco-val")) == {"a": [("annotated size", [])]}


def test_images_fewer_than_boxes_are_damage_where_frames_are_listed(tmp_path):
    folder = tmp_path / "Board"
    (folder / "img").mkdir(parents=True)
    for number in range(1, 4):
        (folder / "img" / f"{number:04d}.jpg").write_bytes(image())
    (folder / "groundtruth_rect.txt").write_text("1,2,20,20\n" * 4)
    assert ("annotations", []) in damage(audited(tmp_path, "otb-all"))["Board"]


def test_a_report_comes_back_as_it_was_written(tree, tmp_path):
    spoil(tree)
    audits = {name: audited(tree, name) for name in ("lasot-test", "lasot-train")}
    save_report(tmp_path / "check.json", audits)
    assert load_report(tmp_path / "check.json") == audits


FINDING = {"kind": "k", "severity": "damage", "message": "m", "frames": [1]}


@pytest.mark.parametrize(
    "datasets",
    [None, {"a": 1}]
    + [
        {"a": {"root": "r", "deep": True, "counts": {}, "split": [], "sequences": {"s": [finding]}}}
        for finding in (
            {"kind": "k", "severity": "damage", "message": "m"},
            {**FINDING, "severity": "harm"},
            {**FINDING, "frames": [1.5]},
            {**FINDING, "frames": ["1"]},
        )
    ],
)
def test_a_report_that_is_not_whole_is_refused_by_name(tmp_path, datasets):
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"version": 1, "datasets": datasets}))
    with pytest.raises(UserError, match=r"other\.json.*datasets.*lorat-prep check"):
        load_report(path)


@pytest.mark.parametrize("text", ["{}", "[]", '{"version": 2, "datasets": {}}'])
def test_a_file_that_is_no_report_of_this_version_is_refused_by_name(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(UserError, match=r"other\.json.*lorat-prep check"):
        load_report(tmp_path / "other.json")


def clip_of(boxes: np.ndarray, visible: np.ndarray, annotated: int | None = None) -> Clip:
    frames = FrameFiles(Path("seq"), range(1, len(boxes) + 1), "%08d.jpg")
    rows = len(boxes) if annotated is None else annotated
    return Clip("toy", "train", "seq", frames, (Track(boxes, visible),), rows)


CORNERS = st.tuples(*[st.sampled_from([-20.0, 0.0, 10.0, 64.0, 90.0, np.nan, np.inf])] * 4)


@settings(deadline=None)
@given(st.lists(st.tuples(CORNERS, st.booleans()), min_size=1, max_size=8), st.integers(0, 8))
def test_boxes_are_counted_as_one_by_one(rows, annotated):
    boxes = np.array([corners for corners, _ in rows])
    sized = np.array([np.isfinite(b).all() and b[2] > b[0] and b[3] > b[1] for b in boxes])
    visible = sized & np.array([flag for _, flag in rows])
    counts = count_boxes(clip_of(boxes, visible, annotated), SIZE)
    rows_there = range(min(annotated, len(rows)))
    common = np.minimum(boxes[:, 2:], SIZE) - np.maximum(boxes[:, :2], 0)
    outside = [visible[i] and (common[i] <= 0).any() for i in rows_there]
    assert counts["rows"] == len(rows_there)
    assert counts["absent"] == sum(not visible[i] for i in rows_there)
    assert counts["degenerate"] == sum(not sized[i] for i in rows_there)
    assert counts["outside"] == sum(outside)


def test_findings_number_frames_as_the_reader_does_and_more_frames_than_published_are_a_note():
    boxes = np.tile([1.0, 1.0, 9.0, 9.0], (3, 1))
    boxes[1] += 500
    found = check_sequence(clip_of(boxes, np.ones(3, bool)), seen(3), scored=False, published=2)
    kinds = [(f.kind, f.severity, f.frames) for f in found]
    assert kinds == [("box outside", "note", [1]), ("frame count", "note", [])]


def seen(frames: int) -> ImageFacts:
    return ImageFacts(sizes={SIZE: array("i", range(frames))})


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("frames", [1, 2, 3, 300])
def test_a_deep_plan_decodes_every_image_once(tmp_path, monkeypatch: pytest.MonkeyPatch, frames: int, listed: bool):
    read: list[str] = []

    def record(path: Path) -> tuple[np.ndarray, dict[str, str]]:
        read.append(path.name)
        return np.zeros((4, 4, 3)), {}

    monkeypatch.setattr("lorat.prep.audit.images.examine", record)
    names = [f"{n:08d}.jpg" for n in range(1, frames + 1)]
    for name in names:
        (tmp_path / name).touch()
    clip = clip_of(np.ones((frames, 4)), np.ones(frames, bool))
    files = FrameFiles(tmp_path, tuple(names) if listed else clip.frames.names, "%08d.jpg")
    clip = Clip("toy", "train", "seq", files, clip.tracks, frames)
    (total,) = see_images([clip], deep=True, workers=1)
    assert sorted(read) == names
    assert len(total.sizes) == 1 and sorted(total.sizes[4, 4]) == list(range(frames))
    assert not total.missing and total.extra == 0
