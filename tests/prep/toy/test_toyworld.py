import hashlib
import json
from dataclasses import fields, replace

import numpy as np
import pytest

from lorat.prep.toy.scene import render
from lorat.prep.toy.trees import FOLDERS, plan_job
from lorat.prep.toy.write import ToyWorldConfig, plan_jobs, write_toyworld
from lorat.prep.trees.base.official import official_names
from lorat.prep.trees.registry import DATASETS, read_clips
from lorat.prep.trees.sources import TreeOptions
from lorat.shards.base.errors import UserError
from lorat.shards.pixels.jpeg import image_size, read_image

SMALL = ToyWorldConfig(
    width=128,
    height=96,
    lasot_train=3,
    lasot_test=2,
    lasot_ext=1,
    lasot_length=24,
    got10k_train=6,
    got10k_val=2,
    got10k_test=2,
    got10k_length=20,
    trackingnet_train=4,
    trackingnet_test=2,
    trackingnet_length=12,
    coco_train=26,
    coco_val=3,
    tnl2k_train=4,
    tnl2k_test=2,
    tnl2k_length=8,
)
NOTHING = {
    name: 0 for name in ToyWorldConfig.__dataclass_fields__ if name.endswith(("_train", "_val", "_test", "_ext"))
}
TINY = ToyWorldConfig(
    **NOTHING | {"width": 96, "height": 96, "lasot_test": 1, "tnl2k_test": 1}, lasot_length=4, tnl2k_length=4
)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "raw"
    write_toyworld(folder, SMALL, workers=1)
    return folder


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def clips(raw, name, split):
    dataset = DATASETS[name]
    return read_clips(dataset, split, TreeOptions(raw=raw).find(dataset, split))


def truths(folder, split):
    """The boxes and visible shares of each sequence of a split, straight from the renderer."""
    for job in plan_jobs(SMALL):
        if (job.folder, job.split) == (folder, split):
            frames = list(render(plan_job(job)))
            boxes = np.clip([f.boxes[0] for f in frames], 0, [*job.size, *job.size])
            yield job, boxes, np.array([f.visible[0] for f in frames])


def test_the_same_bytes_from_one_process_and_from_two(raw, tmp_path):
    write_toyworld(tmp_path, SMALL, workers=2)
    assert digests(tmp_path) == digests(raw)


def test_another_seed_gives_other_pictures(tmp_path):
    for seed in (0, 1):
        write_toyworld(tmp_path / str(seed), replace(TINY, seed=seed), workers=1)
    first, second = ((tmp_path / seed / "LaSOT/airplane/airplane-1/img/00000001.jpg").read_bytes() for seed in "01")
    assert first != second


def test_every_tree_has_the_files_of_the_real_one(raw):
    for folder, names in {
        "LaSOT": ("training_set.txt", "testing_set.txt"),
        "LaSOT/airplane/airplane-2": ("img/00000001.jpg", "groundtruth.txt", "full_occlusion.txt", "out_of_view.txt"),
        "LaSOT/*/airplane-2": ("nlp.txt",),
        "LaSOT_Extension/atv/atv-1": ("img/00000001.jpg",),
        "GOT-10k": ("train/list.txt", "test/list.txt", "val/GOT-10k_Val_000002/groundtruth.txt"),
        "GOT-10k/train/GOT-10k_Train_000001": ("00000001.jpg", "absence.label", "cover.label", "cut_by_image.label"),
        "GOT-10k/*/GOT-10k_Train_000001": ("meta_info.ini",),
        "TrackingNet/TRAIN_0": ("anno/*.txt", "frames/*/0.jpg"),
        "TrackingNet/TEST": ("anno/-Dz7OIf54b0_0.txt", "frames/-Dz7OIf54b0_0/0.jpg"),
        "COCO/annotations": ("instances_train2017.json", "instances_val2017.json"),
        "COCO/images": ("train2017/000000000009.jpg",),
        "TNL2K_TRAIN/*/imgs": ("00001.jpg", "00000001.png"),
        "TNL2K_TEST/*": ("language.txt",),
    }.items():
        for name in names:
            assert list(raw.glob(f"{folder}/{name}")), (folder, name)
    assert {path.name for path in raw.iterdir()} == {*FOLDERS, "toyworld.json"}


def test_the_readers_find_every_sequence_with_its_first_frame_visible(raw):
    counts = {
        "lasot": {"train": 3, "test": 2},
        "lasot_ext": {"test": 1},
        "got10k": {"train": 6, "val": 2, "test": 2},
        "trackingnet": {"train": 4, "test": 2},
        "coco": {"train": 25, "val": 3},
        "tnl2k": {"train": 4, "test": 2},
    }
    for name, split, count in ((name, *item) for name, splits in counts.items() for item in splits.items()):
        found = clips(raw, name, split)
        assert len(found) == count, name
        for clip in found:
            assert clip.tracks[0].visible[0]
            assert all(path.is_file() for path in clip.frames)
            assert clip.frame_size() == image_size(clip.frames[0])
            assert read_image(clip.frames[len(clip.frames) - 1]).shape[2] == 3
    assert clips(raw, "got10k", "vot"), "the published index list must leave something"


@pytest.mark.parametrize(
    ("name", "folder", "split", "error"),
    [
        ("lasot", "LaSOT", "train", 0.51),
        ("lasot", "LaSOT", "test", 0.51),
        ("lasot_ext", "LaSOT_Extension", "test", 0.51),
        ("got10k", "GOT-10k", "train", 1e-4),
        ("trackingnet", "TrackingNet", "train", 0.011),
        ("tnl2k", "TNL2K_TRAIN", "train", 0.51),
    ],
)
def test_boxes_are_read_as_they_were_rendered(raw, name, folder, split, error):
    read = {clip.name: clip for clip in clips(raw, name, split)}
    for job, boxes, visible in truths(folder, split):
        track = read[job.name].tracks[0]
        large = (boxes[:, 2:] - boxes[:, :2]).min(1) > 1
        rows = track.visible & large
        assert np.abs(track.boxes[rows] - boxes[rows]).max() <= error
        if name == "trackingnet":
            assert not (visible > 0)[~track.visible].any()
        else:
            assert np.array_equal(track.visible, visible > 0)


def test_test_splits_tell_the_first_box_only_and_frames_have_no_gaps(raw):
    for name in ("got10k", "trackingnet"):
        for clip in clips(raw, name, "test"):
            assert clip.annotated == 1
            assert len(clip.frames) > 1
    for folder in (raw / "GOT-10k/test").glob("GOT*"):
        extra = {path.name for path in folder.iterdir() if path.suffix != ".jpg"}
        assert extra == {"groundtruth.txt"}
    for folder in raw.glob("GOT-10k/*/GOT*"):
        numbers = sorted(int(path.stem) for path in folder.glob("*.jpg"))
        assert numbers == list(range(1, len(numbers) + 1))


def test_got10k_labels_say_how_much_is_visible(tmp_path):
    config = replace(SMALL, got10k_train=40, got10k_length=40)
    jobs = [job for job in plan_jobs(config) if job.folder == "GOT-10k" and job.split == "train"]
    low = [0, 0, 0.15, 0.30, 0.45, 0.60, 0.75, 0.90, 1.0]
    high = [0, 0.15, 0.30, 0.45, 0.60, 0.75, 0.90, 1.0, 1.0]
    chosen = [job for job in jobs if any(f.visible[0] < 1 for f in render(plan_job(job)))][:4]
    last = max(job.index for job in chosen) + 1
    write_toyworld(tmp_path, replace(config, **NOTHING | {"got10k_train": last}), workers=1)
    for job in chosen:
        visible = [frame.visible[0] for frame in render(plan_job(job))]
        folder = tmp_path / "GOT-10k/train" / job.name
        cover = [int(line) for line in (folder / "cover.label").read_text().split()]
        absent = [int(line) for line in (folder / "absence.label").read_text().split()]
        for share, level, gone in zip(visible, cover, absent, strict=True):
            assert low[level] <= share <= high[level]
            assert (level == 0) == (share == 0) == bool(gone)
            assert (level == 8) == (share == 1)


def test_objects_of_test_splits_appear_in_no_training_split():
    ids = {"train": set(), "val": set(), "test": set()}
    for job in plan_jobs(replace(SMALL, got10k_train=30)):
        layers = plan_job(job).layers
        ids[job.split] |= {layer.object_id for layer in layers} - {None}
    assert all(ids.values())
    assert not (ids["test"] & ids["train"] or ids["test"] & ids["val"] or ids["val"] & ids["train"])


def test_coco_annotations_are_whole(raw):
    content = json.loads((raw / "COCO/annotations/instances_train2017.json").read_text())
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    for image in content["images"]:
        path = raw / "COCO/images/train2017" / image["file_name"]
        assert image_size(path) == sizes[image["id"]]
    assert len(set(sizes.values())) == 2, "landscapes and portraits"
    crowds = [entry for entry in content["annotations"] if entry["iscrowd"]]
    assert crowds
    for entry in crowds:
        height, width = entry["segmentation"]["size"]
        counts = entry["segmentation"]["counts"]
        assert sum(counts) == width * height
        assert sum(counts[1::2]) == entry["area"] == entry["bbox"][2] * entry["bbox"][3]
    known = {category["id"] for category in content["categories"]}
    for entry in content["annotations"]:
        x, y, w, h = entry["bbox"]
        width, height = sizes[entry["image_id"]]
        assert w > 0 and 0 <= x <= x + w <= width + 0.01
        assert h > 0 and 0 <= y <= y + h <= height + 0.01
        assert entry["category_id"] in known
    numbers = [entry["id"] for entry in content["annotations"]]
    assert len(set(numbers)) == len(numbers)
    assert set(sizes) - {entry["image_id"] for entry in content["annotations"]}, "empty images"


def test_names_are_on_the_official_lists():
    for folder, name in (("LaSOT", "lasot"), ("TNL2K_TEST", "tnl2k"), ("GOT-10k", "got10k")):
        for job in plan_jobs(ToyWorldConfig()):
            if job.folder == folder:
                assert job.name in (official_names(name, job.split) or ())


def test_progress_counts_sequences_and_a_finished_world_is_left_as_it_is(tmp_path):
    told = []
    write_toyworld(tmp_path, TINY, lambda *event: told.append(event), workers=1)
    assert told == [(1, 2), (2, 2)]
    image = tmp_path / "LaSOT/airplane/airplane-1/img/00000001.jpg"
    before = image.stat().st_mtime_ns, image.stat().st_ino
    write_toyworld(tmp_path, TINY, workers=1)
    assert (image.stat().st_mtime_ns, image.stat().st_ino) == before


def test_a_world_of_another_configuration_is_replaced(tmp_path):
    write_toyworld(tmp_path, TINY, workers=1)
    write_toyworld(tmp_path, replace(TINY, lasot_length=8, tnl2k_test=0), workers=1)
    assert not (tmp_path / "TNL2K_TEST").exists()
    marker = json.loads((tmp_path / "toyworld.json").read_text())
    assert marker["config"]["lasot_length"] == 8


def test_an_interrupted_world_is_redone(tmp_path):
    def stop(*_):
        raise RuntimeError("stopped here")

    with pytest.raises(RuntimeError, match="stopped here"):
        write_toyworld(tmp_path, TINY, stop, workers=1)
    assert not any((tmp_path / folder).exists() for folder in FOLDERS)
    write_toyworld(tmp_path, TINY, workers=1)
    write_toyworld(tmp_path / "fresh", TINY, workers=1)
    fresh = digests(tmp_path / "fresh")
    assert {k: v for k, v in digests(tmp_path).items() if not k.startswith("fresh")} == fresh


@pytest.mark.parametrize("linked", [False, True])
def test_a_tree_of_someone_else_is_never_touched(tmp_path, linked):
    tree = tmp_path / "raw" / "GOT-10k"
    real = tmp_path / "elsewhere" if linked else tree
    real.mkdir(parents=True)
    (real / "precious.txt").write_text("mine")
    if linked:
        tree.parent.mkdir()
        tree.symlink_to(real)
    with pytest.raises(UserError, match="GOT-10k: exists and was not written by the toy world"):
        write_toyworld(tmp_path / "raw", TINY, workers=1)
    assert (real / "precious.txt").read_text() == "mine"
    assert [path.name for path in tree.parent.iterdir()] == ["GOT-10k"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for raw in (tmp_path / "file", tmp_path / "file" / "raw"):
        with pytest.raises(UserError, match="file"):
            write_toyworld(raw, TINY, workers=1)


@pytest.mark.parametrize(("field", "value"), [("width", 10), ("lasot_test", 281), ("got10k_length", 0), ("seed", -1)])
def test_a_number_out_of_range_is_named_with_the_range(field, value):
    with pytest.raises(UserError, match=f"{field} is {value}; choose a number from"):
        ToyWorldConfig(**{field: value})


def test_there_are_names_for_as_many_sequences_as_may_be_asked_for():
    most = {field.name: field.metadata["option"].most for field in fields(ToyWorldConfig)}
    listed = ("lasot_train", "lasot_test", "got10k_train", "got10k_val", "got10k_test")
    for name in (*listed, "trackingnet_test", "tnl2k_train", "tnl2k_test"):
        assert most[name] == len(official_names(*name.split("_")))
    assert most["lasot_ext"] == len(official_names("lasot_ext", "test"))
