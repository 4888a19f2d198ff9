"""Masks of an evaluation's sequences and of one's own video, by the commands, with a small SAM."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from lorat.evaluate.cli import main
from lorat.evaluate.results.files import read_result
from lorat.evaluate.segment.files import read_masks
from lorat.evaluate.segment.segmenter import Segmenter
from lorat.evaluate.segment.sequences import segment_sequence
from lorat.evaluate.segment.settings import SegmentSettings
from lorat.shards.pixels.geometry import xywh_to_xyxy
from lorat.shards.pixels.jpeg import read_image
from tests.evaluate.conftest import SIZE, moving_box
from tests.evaluate.mistakes import one_line_error
from tests.evaluate.segment.tiny import Ellipses, save_tiny_sam
from tests.evaluate.small_videos import read_video, write_video
from tests.evaluate.vot.sequences import write_sequences

EXACT = ("--dtype=float32", "--device=cpu")
OUT = Path("run/eval/epoch_0010")


@pytest.fixture
def here(tmp_path, tiny_weights, monkeypatch):
    """A working folder with a run and a small SAM."""
    monkeypatch.chdir(tmp_path)
    save_tiny_sam(tmp_path / "sam.pth")
    return tmp_path


@pytest.fixture
def segmenter(here):
    return SegmentSettings(segment="sam", segment_weights=Path("sam.pth")).load(torch.device("cpu"))


def call(*arguments: str, segment: tuple[str, ...] = ("--segment=sam", "--segment-weights=sam.pth")):
    return CliRunner().invoke(main, [*arguments, *EXACT, *segment])


def test_an_evaluation_writes_the_masks_of_its_boxes_and_goes_on(here, got10k_raw, segmenter):
    evaluate = ("--run=run", f"--raw={got10k_raw}", "--datasets=got10k-val")
    outcome = call(*evaluate, "--no-video", segment=())
    assert outcome.exit_code == 0, outcome.output
    before = {file: file.read_bytes() for file in sorted((OUT / "results").rglob("*")) if file.is_file()}
    outcome = call(*evaluate)
    assert outcome.exit_code == 0, outcome.output
    assert f"masks: {OUT / 'masks'}" in outcome.output
    assert {file: file.read_bytes() for file in before} == before
    folder, names = OUT / "masks/got10k-val", [f"GOT-10k_Val_{number:06d}" for number in (1, 2, 3)]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, *(f"{name}.jpg" for name in names)])
    for name in names:
        boxes = xywh_to_xyxy(read_result(OUT / "results/got10k-val", name).boxes)
        read = dict(read_masks(folder / name))
        images = sorted((got10k_raw / "GOT-10k/val" / name).glob("*.jpg"))
        assert list(read) == [image.stem for image in images]
        for image, box in zip(images, boxes, strict=True):
            np.testing.assert_array_equal(read[image.stem], segmenter(read_image(image), box[None])[0])
    strip = cv2.imread(str(folder / f"{names[0]}.jpg"))
    assert strip.shape[1] > 4 * strip.shape[0]
    blue = strip.astype(int)[..., 0] - strip.astype(int)[..., 2] > 60
    assert blue.mean() > 0.01
    (folder / names[0] / "00000002.png").unlink()  # what is there is not made again
    (folder / names[1]).rename(folder / "aside")
    (folder / names[2] / "00000001.png").touch()
    kept = (folder / names[2] / "00000001.png").stat().st_mtime_ns
    assert call(*evaluate, "--no-video").exit_code == 0
    assert len(list((folder / names[1]).glob("*.png"))) == 6 and len(list((folder / names[0]).glob("*.png"))) == 4
    assert (folder / names[2] / "00000001.png").stat().st_mtime_ns == kept


def test_masks_of_another_network_are_not_mixed_in(here, got10k_raw):
    evaluate = ("--run=run", f"--raw={got10k_raw}", "--datasets=got10k-val", "--limit=1", "--no-video")
    assert call(*evaluate, "--segment-files=rle").exit_code == 0
    lines = (OUT / "masks/got10k-val/GOT-10k_Val_000001.jsonl").read_text().splitlines()
    assert [json.loads(line)["size"] for line in lines] == [[72, 96]] * 5
    published = call(*evaluate, "--segment-edges=published")
    one_line_error(published, "holds masks of another tracker or network", "--overwrite")
    outcome = call(*evaluate, "--segment-edges=published", "--overwrite")
    assert outcome.exit_code == 0, outcome.output
    assert not list(OUT.glob("masks/*/*.jsonl")) and len(list(OUT.glob("masks/*/*/*.png"))) == 5
    one_line_error(call(*evaluate, segment=("--segment=sam",)), "give --segment-weights")


def test_objects_of_a_sequence_are_looked_at_together_and_each_frame_decoded_once(tmp_path, monkeypatch):
    from lorat.prep.trees.base.clip import FrameFiles
    from lorat.prep.trees.registry import DATASETS, read_clips

    reads = []
    read = FrameFiles.read
    monkeypatch.setattr(FrameFiles, "read", lambda self, index: reads.append(index) or read(self, index))
    clips = read_clips(DATASETS["vot"], "all", write_sequences(tmp_path / "vot", objects=3, count=1))
    assert len(clips) == 3
    network, boxes = Ellipses(), np.stack([clip.tracks[0].boxes for clip in clips])
    stems = [tmp_path / "masks" / clip.name for clip in clips]
    segment_sequence(Segmenter(network, shared=True), clips, boxes, stems, "png")
    assert reads == list(range(12))
    assert all([len(own) for own in call] == [3] for call in network.calls) and len(network.calls) == 12
    assert sorted(path.name for path in (tmp_path / "masks").glob("*.jpg")) == [f"{stem.name}.jpg" for stem in stems]


def test_a_frame_that_does_not_decode_keeps_the_last_mask(make_clip, tmp_path):
    clip = make_clip("a", 5)
    (clip.frames.folder / "00000003.jpg").write_bytes(b"no image")
    boxes = clip.tracks[0].boxes[None]
    segment_sequence(Segmenter(Ellipses()), [clip], boxes, [tmp_path / "a"], "rle")
    masks = [mask for _, mask in read_masks(tmp_path / "a")]
    assert len(masks) == 5
    np.testing.assert_array_equal(masks[2], masks[1])
    assert (masks[3] != masks[2]).any()


def test_images_of_one_name_have_masks_by_number(make_clip, tmp_path):
    clip = make_clip("a", 3)
    names = ("frame.jpg", "frame.bmp", "frame.jpeg")
    for path, name in zip(clip.frames, names, strict=True):
        path.rename(path.with_name(name))
    frames = replace(clip.frames, names=names)
    segment_sequence(
        Segmenter(Ellipses()), [replace(clip, frames=frames)], clip.tracks[0].boxes[None], [tmp_path / "a"], "png"
    )
    assert [name for name, _ in read_masks(tmp_path / "a")] == ["00000001", "00000002", "00000003"]


@pytest.mark.parametrize("layout", ["png", "rle"])
def test_a_video_has_the_masks_drawn_and_written_of_the_boxes_that_it_has_without(here, segmenter, layout):
    write_video(Path("clip.mp4"))
    x1, y1, x2, y2 = moving_box(0, 0)
    video = ("video", "clip.mp4", "--run=run", f"--box={x1},{y1},{x2 - x1},{y2 - y1}", "--frames=4")
    outcome = call(*video, segment=())
    assert outcome.exit_code == 0, outcome.output
    table, plain = Path("clip-tracked.csv").read_bytes(), read_video(Path("clip-tracked.mp4"))[1]
    one_line_error(call(*video), "clip-tracked.mp4: exists")
    outcome = call(*video, f"--segment-files={layout}", "--overwrite")
    assert outcome.exit_code == 0, outcome.output
    assert Path("clip-tracked.csv").read_bytes() == table
    place = "clip-tracked-masks" + (".jsonl" if layout == "rle" else "")
    assert f"masks: {place}" in outcome.output and Path(place).exists()
    masks = dict(read_masks(Path("clip-tracked-masks")))
    assert list(masks) == [f"{number:08d}" for number in range(4)]
    frames = read_video(Path("clip.mp4"))[1]
    boxes = np.loadtxt(table.decode().splitlines()[1:], delimiter=",", usecols=(2, 3, 4, 5))
    for frame, box, mask in zip(frames, xywh_to_xyxy(boxes), masks.values(), strict=False):
        # The table has four decimals of a box, which its crop moves by less than a cell.
        assert (segmenter(frame, box[None])[0] == mask).mean() > 0.995
        assert mask.shape == SIZE[::-1] and 0 < mask.mean() < 1
    drawn = read_video(Path("clip-tracked.mp4"))[1]
    changed = np.abs(drawn[0].astype(int) - plain[0].astype(int)).sum(axis=2) > 60
    shape = cv2.resize(masks["00000000"].astype(np.uint8), changed.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    assert changed[shape].mean() > 0.5
    again = call(*video, f"--segment-files={layout}", "--out=o.mp4", "--csv=o.csv")
    assert again.exit_code == 0, again.output
    Path("o.mp4").unlink()
    Path("o.csv").unlink()
    one_line_error(call(*video, f"--segment-files={layout}", "--out=o.mp4"), "o-masks", "exists")


def test_each_object_of_a_video_has_a_folder_of_masks_and_a_colour(here):
    write_video(Path("clip.mp4"))
    boxes = ("--box=20,18,22,17", "--box=1:60,30,20,20")
    outcome = call("video", "clip.mp4", "--run=run", *boxes, "--frames=2")
    assert outcome.exit_code == 0, outcome.output
    first, second = (dict(read_masks(Path("clip-tracked-masks") / number)) for number in "12")
    assert list(first) == list(second) == ["00000000", "00000001"]
    assert first["00000000"].any() and not second["00000000"].any() and second["00000001"].any()


def test_a_folder_with_other_files_is_not_replaced_by_masks(here):
    write_video(Path("clip.mp4"))
    (mine := Path("clip-tracked-masks")).mkdir()
    (mine / "notes.txt").write_text("mine")
    outcome = call("video", "clip.mp4", "--run=run", "--box=20,18,22,17", "--frames=2", "--overwrite")
    one_line_error(outcome, "clip-tracked-masks: holds other files than masks")
    assert (mine / "notes.txt").read_text() == "mine" and not list(Path().glob("clip-tracked.*"))
    look = call("video", "clip.mp4", "--first-frame=first.png")
    one_line_error(look, "--segment: has no meaning for --first-frame")
