"""What the doctor says fits the machine, and what is missing comes with its remedy."""

import math
import os
import re
import resource
import shutil
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from lorat.prep.cli import doctor, main
from lorat.shards.base.machine import MemoryLimit
from lorat.train.network.weights.backbones import FOLDER_VARIABLE


def test_every_part_of_the_machine_is_named_within_80_columns(tmp_path):
    result = CliRunner().invoke(main, ["doctor", str(tmp_path)], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    names = {line.split("  ")[0] for line in result.output.splitlines() if line[:1].strip()}
    assert {"software", "cores", "memory", "JPEG", "zstd", "disk", "torch", "ray"} <= names
    assert any(name.startswith("GPU") for name in names)
    assert max(len(line) for line in result.output.splitlines()) <= 80
    assert list(tmp_path.iterdir()) == []


def test_limits_on_cores_and_memory_and_other_work_are_named(monkeypatch):
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 8_000_000}
    monkeypatch.setattr(os, "sysconf", lambda name: pages[name])
    monkeypatch.setattr(doctor, "memory_limits", lambda: [])
    for name, value in {"allowed_cores": 4, "usable_cores": 4, "core_quota": math.inf, "free_cores": 4.0}.items():
        monkeypatch.setattr(doctor, name, lambda value=value: value)
    cores, memory = doctor.machine()
    assert cores.remedy == "" and (memory.found, memory.remedy) == ("32.8 GB", "")
    monkeypatch.setattr(doctor, "core_quota", lambda: 1.5)
    monkeypatch.setattr(doctor, "usable_cores", lambda: 2)
    monkeypatch.setattr(doctor, "free_cores", lambda: 0.5)
    monkeypatch.setattr(doctor, "memory_limits", lambda: [MemoryLimit(2_000_000_000, 1)])
    cores, memory = doctor.machine()
    assert "a container limit leaves 1.5" in cores.found and "builds run 2 processes" in cores.means
    assert "other work leaves 0.5" in cores.remedy
    assert memory.found == "2.0 GB (a container limit)" and "few loader processes" in memory.remedy


def test_the_number_type_of_a_processor_comes_with_its_reason(monkeypatch):
    (torch_here, *_) = compute(monkeypatch, is_available=False)
    assert re.search(r", (1 thread|[2-9]\d* threads|1\d+ threads)$", torch_here.found)
    assert re.search(r"trains on cpu in (bfloat16|float32), since bfloat16 is [\d.]+ x as fast", torch_here.means)


def test_what_is_missing_comes_with_its_remedy_and_is_optional(monkeypatch):
    monkeypatch.setattr(doctor, "codec_name", lambda: "opencv-5.0.0")
    assert "apt-get install libturbojpeg0" in doctor.codec().remedy
    monkeypatch.setattr(doctor, "codec_name", lambda: "libjpeg-turbo-3.0.0")
    assert doctor.codec().remedy == ""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    found = {part.part: part for part in doctor.software()}
    for part, remedy in (
        ("zstd", "install zstd"),
        ("ray", "lorat[ray]"),
        ("s3fs", "lorat[s3]"),
        ("av", "lorat[video]"),
    ):
        assert found[part].means == "optional" and remedy in found[part].remedy


def test_few_open_files_and_little_shared_memory_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 4096))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=64 << 20))
    files, shared = doctor.limits(tmp_path)
    assert files.remedy == "ulimit -n 1024"
    assert "--shm-size" in shared.remedy


def test_the_disk_is_measured_where_the_shards_would_be_made(tmp_path):
    finding = doctor.disk(tmp_path / "not" / "yet" / "there")
    assert str(tmp_path) in finding.found
    speeds = re.search(r"writes ([\d,]+) MB/s, reads ([\d,]+) MB/s, ([\d,]+) random", finding.found)
    assert speeds and all(int(speed.replace(",", "")) > 0 for speed in speeds.groups())
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_is_named_and_nothing_is_left(tmp_path, monkeypatch):
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    finding = doctor.disk(tmp_path)
    assert "No space left" in finding.means
    assert finding.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_and_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    finding = doctor.disk(tmp_path)
    assert "writes" not in finding.found and "make room" in finding.remedy


def compute(monkeypatch: pytest.MonkeyPatch, **cuda: object) -> list[doctor.Diagnosis]:
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    return list(doctor.compute())


def test_gpus_are_named_with_the_number_type_that_training_takes(monkeypatch):
    card = SimpleNamespace(name="NVIDIA A100", total_memory=80e9)
    cuda = {"device_count": 2, "get_device_properties": card, "is_available": True}
    new = compute(monkeypatch, **cuda, get_device_capability=(8, 0))
    assert [(f.part, f.found) for f in new[1:]] == [("GPU 0", "NVIDIA A100, 80 GB"), ("GPU 1", "NVIDIA A100, 80 GB")]
    assert new[0].means == "trains on cuda in bfloat16"
    old = compute(monkeypatch, **cuda, get_device_capability=(7, 0))
    assert old[0].means == "trains on cuda in float32"


def test_a_card_that_torch_does_not_see_comes_with_its_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_CARD", tmp_path)
    assert "a torch that sees it" in compute(monkeypatch, is_available=False)[-1].remedy


def test_weights_are_looked_for_where_training_looks(monkeypatch, tmp_path):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    assert "timm's hub" in doctor.backbones().means
    (tmp_path / "vit_base_patch14_dinov2.lvd142m.safetensors").write_bytes(b"")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert "vit_base_patch14_dinov2" in doctor.backbones().means
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "gone"))
    assert doctor.backbones().remedy


def test_a_store_has_no_disk_to_measure():
    result = CliRunner().invoke(main, ["doctor", "s3://bucket/shards"])
    assert result.exit_code == 2
    assert "s3://bucket/shards: is in a store; name a local folder" in result.output
