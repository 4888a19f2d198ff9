import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from lorat.configs.schema import LoraConfig
from lorat.evaluate.cli import main
from lorat.train.network.trained import load_network, save_weights
from lorat.train.network.variants import build_network
from tests.evaluate.conftest import TINY
from tests.evaluate.mistakes import one_line_error as refused
from tests.train.network.published_files import make, write


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a published file, its backbone and its variant."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LORAT_BACKBONES", raising=False)
    tracker = make("official")
    write(Path("lorat.bin"), tracker.trained() | {"lora_alpha": torch.tensor(12)})
    torch.save(tracker.backbone | {"mask_token": torch.zeros(1, 32)}, "dinov2_pretrain.pth")
    Path("small.yaml").write_text(tracker.variant.model_dump_json())
    return tmp_path


def export(*arguments: str):
    return CliRunner().invoke(main, ["export-weights", *arguments])


MERGE = ("--merged", "--weights", "lorat.bin", "--variant", "small.yaml")


def test_merged_file_needs_neither_backbone_nor_variant(here):
    result = export(*MERGE, "--backbone", "dinov2_pretrain.pth")
    assert result.exit_code == 0, result.output
    assert "lorat-merged.safetensors" in result.stdout
    Path("dinov2_pretrain.pth").unlink()
    network, variant = load_network(Path("lorat-merged.safetensors"))
    assert (variant.name, variant.lora.alpha) == ("official-56", 12.0)
    assert not any("lora" in name for name, _ in network.named_parameters())


@pytest.mark.parametrize(
    "example", ["lorat-eval export-weights --merged", "lorat-eval video clip.mp4 --box", "lorat-eval --run"]
)
def test_help_shows_a_command_a_line(example):
    command = [word for word in example.split()[1:2] if not word.startswith("-")]
    lines = CliRunner().invoke(main, [*command, "--help"]).stdout.splitlines()
    assert any(line.strip().startswith(example) for line in lines)
    assert "\\b" not in "".join(lines)


def test_number_type_of_the_merged_file_is_chosen(here):
    backbone = ("--backbone", "dinov2_pretrain.pth")
    assert export(*MERGE, *backbone).exit_code == 0
    assert export(*MERGE, *backbone, "--dtype", "bfloat16", "--out", "half.bin").exit_code == 0
    tensors = load_file("half.bin")
    assert tensors["blocks.0.attn.qkv.weight"].dtype == torch.bfloat16
    assert tensors["head.cls_mlp.layers.0.weight"].dtype == torch.bfloat16
    assert tensors["norm.weight"].dtype == tensors["pos_embed"].dtype == torch.float32
    exact, _ = load_network(Path("lorat-merged.safetensors"), dtype=torch.bfloat16)
    half, _ = load_network(Path("half.bin"), dtype=torch.bfloat16)
    for name, tensor in exact.named_parameters():
        assert torch.equal(half.get_parameter(name), tensor), name


def test_a_number_type_that_cannot_hold_the_weights_is_refused(here):
    state = torch.load("dinov2_pretrain.pth", weights_only=True)
    state["blocks.0.mlp.fc1.weight"][0, 0] = 1e5  # beyond float16's 65,504
    torch.save(state, "dinov2_pretrain.pth")
    half = (*MERGE, "--backbone", "dinov2_pretrain.pth", "--dtype", "float16")
    refused(export(*half), "blocks.0.mlp.fc1.weight would be not finite in float16", "try --dtype float32")
    assert not Path("lorat-merged.safetensors").exists()
    assert export(*half[:-1], "bfloat16").exit_code == 0


@pytest.mark.parametrize("name", ["out.bin", "out.safetensors", "out.pth"])
@pytest.mark.parametrize("scalars", [True, False])
def test_published_file_needs_no_backbone_and_keeps_every_value(name, scalars, here):
    extra = [] if scalars else ["--no-scalars"]
    result = export("--published", *MERGE[1:], "--out", name, *extra)
    assert result.exit_code == 0, result.output
    is_torch = name.endswith(".pth")
    found = torch.load(name, weights_only=True) if is_torch else load_file(name)
    wanted = load_file("lorat.bin")
    assert ("lora_alpha" in found) == ("use_rslora" in found) == scalars
    for name in wanted.keys() - {"lora_alpha"}:
        assert torch.equal(found[name], wanted[name]), name
    if scalars:
        assert found["lora_alpha"].dtype == torch.int64
        assert found["use_rslora"].dtype == torch.bool
        assert found["lora_alpha"].shape == found["use_rslora"].shape == ()


def test_last_checkpoint_of_a_run_is_exported_beside_its_checkpoints(here):
    checkpoint = Path("runs/tiny/checkpoints/epoch_0003")
    variant = TINY.model_copy(update={"lora": LoraConfig(rank=4, alpha=4.0)})
    save_weights(checkpoint / "model.safetensors", build_network(variant), variant)
    assert any("lora" in name for name in load_file(checkpoint / "model.safetensors"))
    assert export("--merged").exit_code == 0
    out = Path("runs/tiny/export/epoch_0003-merged.safetensors")
    shutil.rmtree(checkpoint)
    assert load_network(out)[1].name == "tiny" and not any("lora" in name for name in load_file(out))


def test_file_that_is_there_is_kept_until_overwrite(here):
    backbone = ("--backbone", "dinov2_pretrain.pth")
    assert export(*MERGE, *backbone).exit_code == 0
    before = Path("lorat-merged.safetensors").stat().st_mtime_ns
    refused(export(*MERGE, *backbone), "lorat-merged.safetensors", "--overwrite")
    assert Path("lorat-merged.safetensors").stat().st_mtime_ns == before
    assert export(*MERGE, *backbone, "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--weights", "lorat.bin"], ["--merged", "--published"]),
        (["--merged", "--weights", "absent.bin"], ["absent.bin"]),
        (["--merged", "--weights", "lorat.bin"], ["lorat.bin", "--variant"]),
        (["--published", "--weights", "lorat.bin", "--dtype", "float16"], ["--dtype"]),
        ([*MERGE, "--no-scalars"], ["--scalars"]),
        ([*MERGE, "--opset", "17"], ["--opset", "--merged"]),
        ([*MERGE, "--out", "file.onnx"], ["file.onnx", ".safetensors"]),
        (["--merged", "--run", "r", "--weights", "lorat.bin"], ["--run", "--weights"]),
        ([*MERGE[:-1], "B-224"], ["lorat.bin", "missing"]),
    ],
)
def test_mistakes_end_in_one_line(arguments, parts, here):
    refused(export(*arguments), *parts)
    assert not list(Path().glob("*merged*"))


@pytest.mark.parametrize(
    ("forms", "words"),
    [
        (["--onnx", "--merged"], "--merged and --onnx: give one of them"),
        ([], "say what to write: --merged, "),
        (["--onnx", "--onnx"], "none.bin"),
    ],
)
def test_one_form_is_written(forms, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(export(*forms, "--weights", "none.bin"), words)


def test_what_is_read_is_not_written_over(here):
    before = Path("lorat.bin").read_bytes()
    refused(export("--published", *MERGE[1:], "--out", "./lorat.bin", "--overwrite"), "lorat.bin", "is read for this")
    backbone = Path("dinov2.bin")
    Path("dinov2_pretrain.pth").rename(backbone)
    for out in ("lorat.xml", "dinov2.xml"):
        again = export("--openvino", *MERGE[1:], f"--backbone={backbone}", "--out", out, "--overwrite")
        refused(again, Path(out).with_suffix(".bin").name, "is read for this")
    assert Path("lorat.bin").read_bytes() == before


def test_options_before_the_command_are_not_lost_in_silence(here):
    result = CliRunner().invoke(main, ["--weights", "lorat.bin", "export-weights", "--merged"])
    refused(result, "--weights", "after export-weights")


def test_another_backbone_needs_force(here):
    assert export("--published", *MERGE[1:], "--out", "named.bin").exit_code == 0
    tensors = load_file("named.bin")
    told = {"variant": Path("small.yaml").read_text(), "backbone_fingerprint": "xxh3:0"}
    save_file(tensors, "trained.safetensors", told)
    arguments = ["--merged", "--weights", "trained.safetensors", "--backbone"]
    refused(export(*arguments, "dinov2_pretrain.pth"), "xxh3:0", "--force-backbone")
    result = export(*arguments, "dinov2_pretrain.pth", "--force-backbone")
    assert result.exit_code == 0, result.output
    assert "xxh3:0" in result.stderr


def test_published_file_is_evaluated_from_the_command_line(here, got10k_raw):
    arguments = ["--weights", "lorat.bin", "--variant", "small.yaml", "--raw", str(got10k_raw)]
    arguments += ["--datasets", "got10k-val", "--device", "cpu", "--dtype", "float32", "--no-video"]
    result = CliRunner().invoke(main, [*arguments, "--backbone", "dinov2_pretrain.pth"])
    assert result.exit_code == 0, result.output
    assert Path("eval/lorat/metrics.json").is_file()
    assert export(*MERGE, "--backbone", "dinov2_pretrain.pth").exit_code == 0
    merged = ["--weights", "lorat-merged.safetensors", *arguments[4:]]
    result = CliRunner().invoke(main, merged)
    assert result.exit_code == 0, result.output
    for name in ("GOT-10k_Val_000001", "GOT-10k_Val_000002"):
        one, two = (
            Path(f"eval/{stem}/results/got10k-val/{name}.txt").read_text() for stem in ("lorat", "lorat-merged")
        )
        assert one == two
