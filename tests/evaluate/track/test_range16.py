"""Frames of 16 bits a pixel are tracked, and shown, as the range stretches them."""

import json
import shutil

import cv2
import numpy as np
from click.testing import CliRunner

from lorat.evaluate.cli import main
from lorat.evaluate.report import strips
from lorat.evaluate.track.folder import read_identity
from lorat.shards.pixels.jpeg import Range16, read_image


def test_stretched_counts_are_tracked_as_the_8_bits_that_they_were_made_from(
    tiny_weights, got10k_raw, tmp_path, monkeypatch
):
    """And results of another range are not mixed with them."""
    shown = []
    monkeypatch.setattr(strips, "draw_boxes", lambda frame, *_: shown.append(frame.std()) or frame)
    grey, deep = (got10k_raw / "GOT-10k" / "val", tmp_path / "deep" / "GOT-10k" / "val")
    shutil.copytree(grey, deep)
    for file in deep.rglob("*.jpg"):
        counts = read_image(file)[..., 0]
        cv2.imwrite(str(grey / file.relative_to(deep)), counts, (cv2.IMWRITE_JPEG_QUALITY, 100))
        counts = read_image(grey / file.relative_to(deep))[..., 0]
        data = cv2.imencode(".png", 7000 + 4 * counts.astype(np.uint16))[1].tobytes()
        file.write_bytes(data)  # what an image is, its first bytes say

    def track(raw, out: str, *more: str):
        fixed = ["--weights", str(tiny_weights), "--raw", str(raw), "--dtype=float32", "--device=cpu", "--no-video"]
        return CliRunner().invoke(main, [*fixed, f"--out={tmp_path / out}", "--datasets=got10k-val", *more])

    def boxes(out: str) -> list[str]:
        return [file.read_text() for file in sorted((tmp_path / out / "results").rglob("*_00000?.txt"))]

    raw, stretch = tmp_path / "deep", "--range16=7000,8020"
    assert track(got10k_raw, "grey").exit_code == track(raw, "deep", stretch).exit_code == 0
    assert len(boxes("grey")) == 3 and boxes("grey") == boxes("deep")
    assert track(raw, "flat").exit_code == 0 and boxes("flat") != boxes("deep")
    assert read_identity(tmp_path / "deep").range16 == Range16(7000, 8020)
    assert json.loads((tmp_path / "deep" / "metrics.json").read_text())["tracker"]["range16"] == [7000, 8020]
    refused = track(raw, "deep")
    assert refused.exit_code == 2 and "--range16" in refused.stderr
    assert track(raw, "deep", stretch).exit_code == 0
    shown.clear()
    report = CliRunner().invoke(main, ["report", f"--out={tmp_path / 'deep'}", f"--raw={raw}"])
    assert report.exit_code == 0 and shown and min(shown) > 10  # the flat ones are below 1
