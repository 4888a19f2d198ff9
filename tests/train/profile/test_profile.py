"""What a variant costs: the published numbers, the counting against PyTorch's own, the command."""

import pytest
import torch
import yaml
from click.testing import CliRunner
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lorat.configs.load import load_recipe, load_variant
from lorat.configs.schema import LoraConfig, TrainConfig
from lorat.shards.base import machine
from lorat.shards.base.machine import MemoryLimit
from lorat.train.cli import main
from lorat.train.network.variants import empty_network
from lorat.train.profile import profile as profiling
from lorat.train.profile.count import (
    Setting,
    count_frame,
    count_parameters,
    count_step,
    made_up_batch,
    materialise,
    step_engine,
)
from lorat.train.profile.measure import free_memory, measure_apart
from lorat.train.profile.profile import Profile
from lorat.train.step.step import update
from tests.train.conftest import with_train

CPU, CUDA = torch.device("cpu"), torch.device("cuda")

# All parameters, trained ones; GFLOP of template and search merged, and with LoRA beside.
PUBLISHED = {
    "S-224": (27_530_885, 5_902_853, 15.9, 19.3),
    "S-378": (27_712_517, 5_902_853, 56.3, 66.2),
    "B-224": (98_708_741, 12_985_349, 59.6, 66.4),
    "B-378": (99_072_005, 12_985_349, 193.0, 212.6),
    "L-224": (335_744_005, 32_518_149, 205.9, 224.0),
    "L-378": (336_228_357, 32_518_149, 650.0, 702.4),
    "g-224": (1_215_001_093, 80_234_501, 755.4, 800.7),
    "g-378": (1_215_727_621, 80_234_501, 2320.8, 2451.7),
}
# GFLOP of a template and a frame, LoRA merged.
TIMM = {"timm-dinov2-S-224": 15.7, "timm-dinov2-S-378": 55.5, "clip-B-256": 58.9, "mae-B-384": 143}
TIMM |= {"clip-L-336": 488.1, "mae-B-432": 190.3}


@pytest.fixture
def tiny(tiny_variant):
    return tiny_variant.model_copy(update={"lora": LoraConfig(rank=4, alpha=4.0)})


def setting_of(variant, device=CPU, dtype=torch.float32, **train) -> Setting:
    return Setting(variant, TrainConfig(**({"batch_size": 8} | train)), device, dtype)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_operations_are_the_published_ones(name):
    every, trained, base, beside = PUBLISHED[name]
    variant = load_variant(name)
    parts, frame = count_parameters(variant), count_frame(variant)
    assert tuple(map(sum, zip(*parts.values(), strict=True))) == (every, trained)
    assert frame.whole / 1e9 == pytest.approx(base, rel=0.005)
    assert frame.beside / 1e9 == pytest.approx(beside, rel=0.005)
    assert frame.template + frame.track < frame.whole


def test_trackers_that_remember_take_the_published_operations():
    assert count_frame(load_variant("spmtrack-B-378")).whole / 1e9 == pytest.approx(363.1, rel=0.005)
    cost = count_frame(load_variant("loratv2-p2-B-378"))
    assert [count / 1e9 for count in cost[:3]] == pytest.approx([43.6, 45.2, 161.4], rel=0.002)


@pytest.mark.parametrize("name", TIMM)
def test_last_block_of_timm_variants_serves_the_search_region_alone(name):
    frame = count_frame(load_variant(name))
    assert (frame.template + frame.track) / 1e9 == pytest.approx(TIMM[name], rel=0.004)


@pytest.mark.parametrize("name", ["toy", "eva02-B-224", "mae-B-256", "dinov3-S-256"])
def test_any_kind_of_variant_is_counted(name):
    variant = load_variant(name)
    parts = count_parameters(variant)
    assert parts["head"][0] == parts["head"][1] > 0
    assert parts["token types"][1] > 0
    assert (parts["LoRA"][0] > 0) == (variant.lora is not None)
    memory = count_step(setting_of(variant, CUDA, torch.bfloat16))
    assert 0 < memory.activations < memory.peak


@pytest.mark.parametrize("asked", ["auto", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_the_number_type_asked_for_is_counted_where_the_device_is_not_here(tiny, device, asked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    found = Profile(tiny, with_train(load_recipe("toy"), dtype=asked), device)
    usual = {"cuda": "bfloat16", "mps": "float32"}[device]
    assert str(found.setting.dtype) == f"torch.{usual if asked == 'auto' else asked}"


def test_what_clip_trains_beside_lora_is_told():
    assert count_parameters(load_variant("clip-B-256"))["backbone"][1] == 2 * 768


@pytest.mark.parametrize("checkpointing", [False, True])
def test_largest_variant_is_counted_without_its_memory(checkpointing):
    train = {"batch_size": 16, "checkpoint_activations": checkpointing}
    recipe = with_train(load_recipe("standard"), **train)
    cost = count_step(Setting(load_variant("g-378"), recipe.train, CUDA, torch.bfloat16))
    gib = 2**30
    assert cost.weights > 1_136_000_000 * 2 + 80_000_000 * 4
    assert cost.gradients == 80_234_501 * 4
    assert cost.optimiser == pytest.approx(80_234_501 * 8, rel=1e-4)
    assert cost.activations < 8 * gib if checkpointing else cost.activations > 20 * gib
    assert cost.peak > cost.weights + cost.optimiser + cost.activations


def test_operations_are_those_of_a_real_step(tiny):
    setting = setting_of(tiny)
    network = materialise(empty_network(tiny, torch.float32), CPU)
    engine, batch = step_engine(network, setting), made_up_batch(setting, network)
    # PyTorch's counter alone does not know the processor's fused attention.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        update(engine, setting.train, batch, 0)
    with sdpa_kernel(SDPBackend.MATH):
        operations = count_step(setting)
    assert operations.operations == counter.get_total_flops()
    assert 0 < operations.forward < operations.operations


def test_devices_differ_in_attention_alone(tiny):
    here, away = setting_of(tiny, CPU, torch.bfloat16), setting_of(tiny, CUDA, torch.bfloat16)
    assert count_step(here).forward == count_step(away).forward
    processor, gpu = count_step(here), count_step(away)
    assert processor.weights == gpu.weights
    assert gpu.activations < processor.activations  # no table of scores is kept


def test_activations_are_what_autograd_saves(tiny):
    setting = setting_of(tiny, batch_size=64)
    network = materialise(empty_network(tiny, torch.float32), CPU)
    objective = step_engine(network, setting).objective
    held = {p.untyped_storage().data_ptr() for p in network.parameters()}
    saved: dict[int, int] = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = made_up_batch(setting, network)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        losses = objective(*batch.inputs, torch.ones(1), torch.ones(()))
    assert losses.total.requires_grad
    assert count_step(setting).activations == pytest.approx(sum(saved.values()), rel=0.1)


def test_accumulation_takes_the_memory_of_a_part_and_the_operations_of_all(tiny):
    whole, parts = (setting_of(tiny, batch_size=32, accumulate=n) for n in (1, 4))
    assert parts.pairs == 8
    assert count_step(parts).activations < 0.3 * count_step(whole).activations
    every = count_step(whole).operations
    assert count_step(parts).operations == pytest.approx(every, rel=0.2)


def test_checkpointing_keeps_less_and_computes_more(tiny):
    settings = [setting_of(tiny, batch_size=32, checkpoint_activations=on) for on in (False, True)]
    plain, checked = map(count_step, settings)
    assert checked.activations < 0.6 * plain.activations
    assert checked.peak < plain.peak
    assert checked.operations > plain.operations
    assert checked.forward == plain.forward


def test_a_step_is_measured_in_a_process_of_its_own(tiny):
    measured = measure_apart(setting_of(tiny))
    assert measured is not None and measured.peak is not None
    assert measured.peak > measured.before > 0
    assert min(measured.seconds) > 0 and measured.rate > 0


def test_the_number_of_pairs_is_the_most_that_fits(tiny, monkeypatch):
    monkeypatch.setattr(profiling, "free_memory", lambda device: 100 * 2**20)
    monkeypatch.setattr(profiling, "measure_apart", lambda setting: None)
    recipe = load_recipe("toy")
    profile = Profile(tiny, recipe, "cpu")
    ((room, pairs),) = profile.largest
    peaks = [count_step(profile.setting.with_pairs(n)).peak for n in (pairs, pairs + 1)]
    assert peaks[0] <= 0.7 * room < peaks[1]
    assert "ran out of memory" in profile.notes[-1]


def test_a_machine_too_small_says_so(tiny, monkeypatch):
    monkeypatch.setattr(profiling, "free_memory", lambda device: 2**17)
    profile = Profile(tiny, load_recipe("toy"), "cpu")
    assert profile.measured is None
    assert profile.largest == [(2**17, 0)]
    assert "do not fit" in profile.notes[0] and "time is not given" in profile.notes[-1]


def test_memory_of_a_container_counts(monkeypatch):
    assert free_memory(CPU) > 2**20
    monkeypatch.setattr(machine, "memory_limits", lambda: [MemoryLimit(1000, 450), MemoryLimit(2000, 900)])
    assert free_memory(CPU) == 450


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_command_needs_no_data_and_fits_eighty_columns(tiny, device, tmp_path, monkeypatch, capsys):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("tells of a machine without CUDA")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(tiny.model_dump(mode="json")))
    command = ["--variant", str(file), "--profile", "--device", device]
    result = CliRunner().invoke(main, [*command, "--set", "train.batch_size=8"])
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= 80
    assert "8 pairs a step" in result.output
    measured = "pairs a second" in result.output
    assert measured == (device == "cpu")
    assert measured or "time is not given: there is no cuda device here" in result.output
    assert not list(tmp_path.glob("runs*"))


def test_torchrun_is_refused(runner):
    assert "torchrun" in runner.run(["--variant", "toy", "--profile"], {"WORLD_SIZE": "2"}, status=2)
