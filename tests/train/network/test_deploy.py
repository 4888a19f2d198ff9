"""Exported graphs give the network's boxes, and the documented example tracks with them."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from lorat.configs.schema import BackboneConfig, LoraConfig, VariantConfig
from lorat.evaluate.cli import main
from lorat.evaluate.track.predictor import Predictor
from lorat.evaluate.track.tracker import Tracker
from lorat.shards.base.errors import UserError
from lorat.train.network.blocks.lora import merge_adapters
from lorat.train.network.deploy import graphs as deploy
from lorat.train.network.deploy.graphs import check_target, export_graphs, graph_metadata, template_file
from lorat.train.network.deploy.operators import lower
from lorat.train.network.trained import save_weights
from lorat.train.network.variants import assemble

ROOT = Path(__file__).parents[3]
NARROW = {"embed_dim": 48, "depth": 2, "num_heads": 2}
KINDS = {
    "plain": BackboneConfig(timm="vit_small_patch14_dinov2", args=NARROW),
    "gated": BackboneConfig(timm="vit_giant_patch14_dinov2", args={**NARROW, "mlp_ratio": 4}),
    "clip": BackboneConfig(timm="vit_base_patch32_clip_224", args=NARROW, layout="timm"),
    "rotary": BackboneConfig(timm="eva02_base_patch14_224", args=NARROW, layout="timm"),
    "dinov3": BackboneConfig(
        timm="vit_small_patch16_dinov3", args={**NARROW, "patch_size": 14}, layout="timm", prefix_tokens="all"
    ),
}


def built(kind: str):
    """A merged network with loud random weights, and its variant."""
    patch = 32 if kind == "clip" else 14
    variant = VariantConfig(
        name=f"tiny-{kind}",
        backbone=KINDS[kind],
        lora=LoraConfig(rank=4, alpha=8.0),
        template_size=4 * patch,
        search_size=8 * patch,
    )
    torch.manual_seed(5)
    network = assemble(variant, None).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.5)
            if name.startswith("head.") and name.endswith("weight"):
                parameter.mul_(8.0)
    merge_adapters(network)
    return network.requires_grad_(False), variant


def crops(variant, batch, seed=0):
    draw = torch.Generator().manual_seed(seed)
    sides = (variant.template_size, variant.search_size)
    template, search = (torch.rand(batch, s, s, 3, generator=draw) * 255 for s in sides)
    return template, search, torch.rand(batch, 4, 4, generator=draw) > 0.5


def normalised(images, variant):
    return ((images / 255 - torch.tensor(variant.mean)) / torch.tensor(variant.std)).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def runtime():
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    return pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def exported(runtime, tmp_path_factory):
    """The plain network's two ONNX files."""
    network, variant = built("plain")
    network.fingerprint = "xxh3:0123"
    return export_graphs(tmp_path_factory.mktemp("plain") / "lorat.onnx", network, variant)


@pytest.mark.parametrize("kind", KINDS)
def test_onnxruntime_gives_the_same_boxes_for_every_batch(kind, runtime, tmp_path, request):
    network, variant = built(kind)
    if kind == "plain":
        files = request.getfixturevalue("exported")
    else:
        files = export_graphs(tmp_path / "net.onnx", network, variant)
    track, embed = (runtime.InferenceSession(file) for file in files)
    for batch in (1, 3):
        template, search, mask = crops(variant, batch, seed=batch)
        feed = {"template": template.numpy(), "template_mask": mask.numpy()}
        (tokens,) = embed.run(None, feed)
        for frame in (search, search.flip(0)):  # one template, many frames
            feed = {"template_tokens": tokens, "search": frame.numpy()}
            score, boxes = track.run(None, feed)
            ours = network(normalised(template, variant), normalised(frame, variant), mask)
            np.testing.assert_allclose(boxes, ours.boxes, rtol=0, atol=1e-3 / variant.search_size)
            np.testing.assert_allclose(score, ours.score_map, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("opset", "lacks"), [(16, {"Gelu", "LayerNormalization"}), (17, {"Gelu"})])
def test_an_older_set_of_operators_gives_the_same_boxes(opset, lacks, runtime, tmp_path):
    import onnx

    network, variant = built("plain")
    track, embed = export_graphs(tmp_path / "net.onnx", network, variant, opset)
    model = onnx.load(track)
    onnx.checker.check_model(model, full_check=True)
    assert (model.opset_import[0].version, model.ir_version) == (opset, 8)
    assert not lacks & {node.op_type for node in model.graph.node}
    template, search, mask = crops(variant, 3)
    track, embed = (runtime.InferenceSession(file) for file in (track, embed))
    (tokens,) = embed.run(None, {"template": template.numpy(), "template_mask": mask.numpy()})
    score, boxes = track.run(None, {"template_tokens": tokens, "search": search.numpy()})
    ours = network(normalised(template, variant), normalised(search, variant), mask)
    np.testing.assert_allclose(boxes, ours.boxes, rtol=0, atol=1e-3 / variant.search_size)
    np.testing.assert_allclose(score, ours.score_map, rtol=0, atol=1e-3)


def test_an_operator_that_a_set_lacks_is_named(runtime):
    import onnx_ir

    split = onnx_ir.node("Split", [onnx_ir.val("x")], {"num_outputs": 2}, num_outputs=2)
    model = onnx_ir.Model(onnx_ir.Graph([], [], nodes=[split], opset_imports={"": 18}), ir_version=8)
    with pytest.raises(UserError, match=r"--opset 17: has no Split"):
        lower(model, 17)


def test_a_torch_export_program_gives_the_same_boxes_for_every_batch(tmp_path):
    network, variant = built("plain")
    track, embed = export_graphs(tmp_path / "net.pt2", network, variant)
    extra = {"metadata.json": ""}
    track = torch.export.load(track, extra_files=extra).module()
    embed = torch.export.load(embed).module()
    assert not any("blocks" in name or "head" in name for name in embed.state_dict())
    for batch in (1, 3):
        template, search, mask = crops(variant, batch)
        tokens = embed(template=template, template_mask=mask)
        score, boxes = track(template_tokens=tokens, search=search)
        ours = network(normalised(template, variant), normalised(search, variant), mask)
        torch.testing.assert_close(boxes, ours.boxes, rtol=0, atol=1e-5)
        torch.testing.assert_close(score, ours.score_map, rtol=0, atol=1e-4)
    known = json.loads(extra["metadata.json"])
    assert known.pop("weights_fingerprint").startswith("xxh3:")
    assert known == {**graph_metadata(variant, network), "graph": "track"}


def test_the_metadata_say_what_a_user_has_to_know(runtime, exported):
    _, variant = built("plain")
    for file, graph in zip(exported, ("track", "template"), strict=True):
        known = runtime.InferenceSession(file).get_modelmeta().custom_metadata_map
        assert known["graph"] == graph
        assert known["variant"] == "tiny-plain"
        assert known["backbone_fingerprint"] == "xxh3:0123"
        sizes = ("template_size", "search_size", "template_grid", "search_grid")
        assert [json.loads(known[name]) for name in sizes] == [56, 112, 4, 8]
        assert json.loads(known["search_factor"]) == variant.search_factor
        assert json.loads(known["template_factor"]) == variant.template_factor
        assert tuple(json.loads(known["mean"])) == variant.mean
        assert tuple(json.loads(known["std"])) == variant.std


def test_weights_too_large_for_one_file_lie_beside_the_graph(runtime, tmp_path, monkeypatch):
    monkeypatch.setattr(deploy, "_ONE_FILE", 0)
    network, variant = built("plain")
    (tmp_path / "net.reference.onnx").write_bytes(b"of another variant")
    file, _ = export_graphs(tmp_path / "net.onnx", network, variant)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"net{part}.onnx{end}" for part in ("", ".template") for end in ("", ".data")}
    assert file.stat().st_size < file.with_name("net.onnx.data").stat().st_size
    runtime.InferenceSession(file)


def test_a_graph_that_onnxruntime_computes_otherwise_is_not_written(runtime, tmp_path, monkeypatch):
    monkeypatch.setattr(deploy, "_TOLERANCE", -1.0)
    network, variant = built("plain")
    with pytest.raises(UserError, match=r"net\.template\.onnx: onnxruntime .* another template_tokens"):
        export_graphs(tmp_path / "net.onnx", network, variant)
    assert list(tmp_path.iterdir()) == []


def test_wrong_endings_and_missing_packages_are_refused(tmp_path, monkeypatch):
    network, variant = built("plain")
    with pytest.raises(UserError, match=r"net\.bin: .* ends in \.onnx"):
        export_graphs(tmp_path / "net.bin", network, variant)
    with pytest.raises(UserError, match=r"ends in \.pt2"):
        check_target(tmp_path / "net.onnx", ".pt2", overwrite=False)
    for name in ("net.template.pt2", "lorat.reference.bin", "weights.bin"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"lorat\.reference\.bin: exists"):
        check_target(tmp_path / "lorat.xml", ".xml", overwrite=False)
    with pytest.raises(UserError, match=r"weights\.bin: is read for this"):
        check_target(tmp_path / "weights.xml", ".xml", overwrite=True, sources=[tmp_path / "weights.bin"])
    with pytest.raises(UserError, match=r"net\.template\.pt2: exists; .* --overwrite"):
        check_target(tmp_path / "net.pt2", ".pt2", overwrite=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"lorat\[onnx\]"):
        export_graphs(tmp_path / "net.onnx", network, variant)


def scene(folder: Path, count: int) -> list[Path]:
    """Frames without loss: a patch that moves over noise, to the frame's edge."""
    rng = np.random.default_rng(4)
    ground = rng.integers(40, 160, (90, 130, 3), dtype=np.uint8)
    patch = rng.integers(0, 256, (18, 25, 3), dtype=np.uint8)
    files = []
    for index in range(count):
        image = ground.copy()
        x, y = 8 + 9 * index, 30 + 4 * index
        image[y : y + 18, x : x + 25] = patch
        files.append(folder / f"{index}.png")
        cv2.imwrite(str(files[-1]), image)
    return files


def test_the_documented_example_tracks_as_the_tracker_does(runtime, exported, tmp_path):
    network, variant = built("plain")
    for file in exported:
        shutil.copy(file, tmp_path)
    text = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "track.py").write_text(example)
    files, first = scene(tmp_path, 9), (3.5, 28.0, 35.0, 50.25)
    command = [sys.executable, "track.py", *map(str, first), *map(str, files)]
    output = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    tracker = Tracker(Predictor(network, variant, torch.device("cpu"), torch.float32))
    frames = [np.ascontiguousarray(cv2.imread(str(file))[..., ::-1]) for file in files]
    tracker.start(frames[0], first)
    lines = output.stdout.splitlines()
    assert len(lines) == len(frames) - 1
    for line, frame in zip(lines, frames[1:], strict=True):
        *box, score = map(float, line.split()[1:])
        tracked = tracker.track(frame)
        np.testing.assert_allclose(box, tracked.box, rtol=0, atol=0.011)
        assert score == pytest.approx(tracked.score, abs=1e-3)


def test_the_template_graph_lies_beside_the_tracking_graph():
    assert template_file(Path("a/B-224.onnx")) == Path("a/B-224.template.onnx")


@pytest.mark.parametrize("form", ["onnx", "torch-export"])
def test_the_command_writes_both_graphs_of_a_weights_file(form, runtime, tmp_path):
    _, variant = built("plain")
    backbone = variant.backbone.model_copy(update={"pretrained": False})
    variant = variant.model_copy(update={"backbone": backbone})
    network = assemble(variant, None)
    save_weights(tmp_path / "model.safetensors", network, variant)
    end = {"onnx": ".onnx", "torch-export": ".pt2"}[form]
    command = ["export-weights", f"--{form}", f"--weights={tmp_path / 'model.safetensors'}"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    for name in (f"model-graph{end}", f"model-graph.template{end}"):
        assert (tmp_path / name).is_file()
        assert name in done.output
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 2
    assert f"model-graph{end}: exists" in again.stderr
