"""The published mask networks, made small: what they answer here is what their packages answer."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lorat.evaluate.segment.folders import load_folder
from lorat.evaluate.segment.sam import build_sam, load_sam
from lorat.evaluate.segment.settings import SIZES, SegmentSettings
from lorat.evaluate.segment.views import mask_in_frame
from lorat.shards.base.errors import UserError
from lorat.shards.base.machine import cores_a_rank
from lorat.shards.pixels.geometry import CropTransform
from tests.evaluate.segment.tiny import SIDE, save_tiny_hq_sam, save_tiny_sam, save_tiny_sam2, tiny_sam

CPU = torch.device("cpu")
BOXES = np.array([[30.0, 40.0, 90.0, 100.0], [0.0, 10.0, 128.0, 60.0], [60.0, 60.0, 70.0, 75.0]])
ASKED = [BOXES, BOXES[1:]]  # of two crops


def crops() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (2, SIDE, SIDE, 3)).astype(np.float32)


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for logits, truth, boxes in zip(found, expected, ASKED, strict=True):
        assert logits.shape == (len(boxes), 32, 32) and logits.std() > 0
        np.testing.assert_allclose(logits, truth, rtol=0, atol=1e-5 * np.abs(truth).max())


def test_a_sam_answers_as_its_own_predictor_does(tmp_path):
    from segment_anything import SamPredictor

    predictor, expected = SamPredictor(tiny_sam()), []
    generator = load_sam(save_tiny_sam(tmp_path / "tiny.pth"), None, "float32", CPU)
    assert generator.side == SIDE
    for crop, boxes in zip(crops(), ASKED, strict=True):
        predictor.set_image(crop.astype(np.uint8))
        _, _, logits = predictor.predict_torch(None, None, torch.from_numpy(boxes), multimask_output=False)
        expected.append(logits[:, 0].numpy())
    same(generator(crops(), ASKED), expected)


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_the_sizes_of_a_published_sam_are_read_off_its_tensors(name):
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        published = sam_model_registry[name]()
    tensors = published.state_dict()
    built = build_sam(tensors)
    shapes = {key: tensor.shape for key, tensor in built.state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in tensors.items()}
    encoders = (built["image_encoder"], published.image_encoder)
    first, second = ([(b.window_size, b.attn.num_heads, b.attn.scale) for b in e.blocks] for e in encoders)
    assert first == second
    assert built["prompt_encoder"].input_image_size == published.prompt_encoder.input_image_size
    assert SIZES["sam"][f"sam-{name.replace('_', '-')}"] == (tensors["image_encoder.pos_embed"].shape[-1], len(first))


@pytest.mark.parametrize(
    ("family", "save", "kind"), [("hq-sam", save_tiny_hq_sam, "SamHQ"), ("sam2.1", save_tiny_sam2, "Sam2")]
)
def test_a_folder_of_transformers_answers_as_its_own_model_and_processor_do(family, save, kind, tmp_path):
    import transformers

    square = {"height": SIDE, "width": SIDE}
    if kind == "SamHQ":
        processor = transformers.SamImageProcessor(size={"longest_edge": SIDE}, pad_size=square)
    else:
        processor = transformers.Sam2ImageProcessor(size=square)
    model = getattr(transformers, f"{kind}Model").from_pretrained(save(tmp_path)).eval()
    generator = load_folder(family, tmp_path, None, "float32", CPU)
    assert generator.side == SIDE
    expected = []
    for crop, boxes in zip(crops(), ASKED, strict=True):
        pixels = processor(crop.astype(np.uint8), return_tensors="pt")["pixel_values"]
        boxes = torch.from_numpy(boxes).float()[None]
        with torch.inference_mode():
            expected.append(model(pixel_values=pixels, input_boxes=boxes, multimask_output=False).pred_masks[0, :, 0])
    same(generator(crops(), ASKED), [logits.numpy() for logits in expected])


def test_a_networks_number_type_is_its_image_encoders(tmp_path):
    load = {
        "sam": lambda dtype: load_sam(save_tiny_sam(tmp_path / "tiny.pth"), None, dtype, CPU),
        "hq-sam": lambda dtype: load_folder("hq-sam", save_tiny_hq_sam(tmp_path / "hq"), None, dtype, CPU),
        "sam2.1": lambda dtype: load_folder("sam2.1", save_tiny_sam2(tmp_path / "2.1"), None, dtype, CPU),
    }
    for make in load.values():
        exact, fast = (make(dtype)(crops(), ASKED) for dtype in ("auto", "bfloat16"))
        for first, second in zip(exact, fast, strict=True):
            spread = np.abs(first).max()
            assert 0 < np.abs(first - second).max() < 0.1 * spread


def test_a_mask_network_has_all_cores_though_the_tracker_takes_one(tmp_path, monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    generator, before, during = load_sam(save_tiny_sam(tmp_path / "tiny.pth"), None, "auto", CPU), 1, []
    watched = replace(generator, encode=lambda x: during.append(torch.get_num_threads()) or generator.encode(x))
    threads = torch.get_num_threads()
    torch.set_num_threads(before)
    try:
        watched(crops(), ASKED)
        assert during == [cores_a_rank()] and torch.get_num_threads() == before
    finally:
        torch.set_num_threads(threads)


def test_masks_over_a_whole_crop_are_those_that_the_packages_interpolate():
    logits = np.random.default_rng(3).normal(size=(32, 32)).astype(np.float32)
    whole = F.interpolate(torch.from_numpy(logits)[None, None], (SIDE, SIDE), mode="bilinear", align_corners=False)
    identity = CropTransform((1.0, 1.0), (0.0, 0.0))
    found = mask_in_frame(logits, identity, SIDE, (SIDE, SIDE), "interpolated")
    sure = np.abs(whole[0, 0].numpy()) > 1e-5
    np.testing.assert_array_equal(found[sure], (whole[0, 0].numpy() > 0)[sure])
    assert sure.mean() > 0.999


def settings(segment: str | None, weights: Path | None, **more) -> SegmentSettings:
    return SegmentSettings(segment=segment, segment_weights=weights, **more)


def test_weights_that_are_missing_or_not_what_was_asked_for_are_named(tmp_path, monkeypatch):
    sam, hq = save_tiny_sam(tmp_path / "tiny.pth"), save_tiny_hq_sam(tmp_path / "hq")
    other = tmp_path / "other.pth"
    torch.save({"a": torch.zeros(2)}, other)
    torch.save({"mask_decoder.hf_token.weight": torch.zeros(1, 2)}, tmp_path / "sam_hq_vit_b.pth")
    part = tmp_path / "part.pth"
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 8, 8, 48)}, part)
    (hq_copy := tmp_path / "short").mkdir()
    (hq_copy / "config.json").write_bytes((hq / "config.json").read_bytes())
    (hq_copy / "model.safetensors").write_bytes(b"short")
    for name, weights, said in [
        (None, sam, "--segment-weights: needs --segment NAME"),
        ("sam-vit-h", None, "give --segment-weights, the .pth that its authors publish"),
        ("sam", tmp_path / "none.pth", "none.pth: no such weights"),
        ("sam-vit-b", sam, "holds 48 channels in 3 blocks, not sam-vit-b; give --segment sam"),
        ("hq-sam-vit-l", hq, "holds 48 channels in 3 blocks, not hq-sam-vit-l"),
        ("sam", other, "no SAM's weights"),
        ("sam", part, "no SAM's weights"),
        ("sam", tmp_path / "sam_hq_vit_b.pth", "HQ-SAM's own file; give --segment hq-sam"),
        ("sam", hq, "a folder; give SAM's own .pth"),
        ("sam2.1", hq, "holds a model of type sam_hq, not sam2"),
        ("hq-sam", sam, "give a folder in transformers' layout"),
        ("hq-sam", hq_copy, "cannot be loaded"),
    ]:
        with pytest.raises(UserError) as refused:
            settings(name, weights).load(CPU)
        assert said in refused.value.message
    with pytest.raises(UserError, match="--segment-shared: needs --segment NAME"):
        settings(None, None, segment_shared=True).load(CPU)
    assert settings(None, None).load(CPU) is None
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'lorat\[sam2\]'"):
        settings("hq-sam", hq).load(CPU)
    monkeypatch.setattr("lorat.evaluate.segment.sam.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'lorat\[sam\]'"):
        settings("sam", sam).load(CPU)


def test_no_code_of_a_weights_file_is_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"image_encoder.pos_embed": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(UserError, match="neither a safetensors file nor a PyTorch file of plain tensors"):
        settings("sam", tmp_path / "trap.pth").load(CPU)
    (hq := save_tiny_hq_sam(tmp_path / "hq")) / "pytorch_model.bin"
    (hq / "model.safetensors").rename(hq / "aside")
    torch.save({"a": Trap()}, hq / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"with config\.json and model\.safetensors"):
        settings("hq-sam", hq).load(CPU)
    assert not (tmp_path / "sprung").exists()
