import numpy as np
import pytest
import torch

from lorat.evaluate.track.memory.crops import crop_around
from lorat.evaluate.track.memory.cutouts import Cutout, cut_out


@pytest.mark.parametrize("scale", [None, 0.4])
@pytest.mark.parametrize("size", [(96, 72), (1280, 720)])
def test_a_crop_resampled_by_the_device_is_the_processors(size, scale):
    """On noise, where neighbours differ most; shrunk and enlarged, inside the frame, across its edge and outside."""
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    places = [(0.5, 0.5, 0.1), (0.5, 0.4, 0.5), (0.05, 0.95, 0.3), (0.98, 0.5, 0.2), (3.0, 3.0, 0.1)]
    for x, y, side in places:
        centre, half = np.array([x, y]) * size, side * size[1] * np.array([0.5, 0.7])
        box, pad, out = np.concatenate([centre - half, centre + half]), np.array([9.5, 80.0, 211.25]), Cutout()
        crop, transform = crop_around(frame, box, 4.0, 224, pad, scale)
        assert cut_out(frame, box, 4.0, 224, pad, scale, out) == transform
        np.testing.assert_allclose(out.resample(torch.from_numpy(out.part), 224), crop, rtol=0, atol=0.05)


def test_off_a_processor_what_crops_show_goes_to_the_device(tiny_predictor, monkeypatch):
    """With the meta device in its place: what is uploaded are bytes, no more than the search window."""
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (720, 1280, 3), dtype=np.uint8)
    box = np.array([600.0, 300, 640, 340])
    monkeypatch.setattr(tiny_predictor, "device", torch.device("meta"))
    places = tiny_predictor.room_for_crops(2)
    for place in places:
        tiny_predictor.cut_search(frame, box, np.zeros(3, np.float32), place)
    assert [(place.part.dtype, place.part.shape) for place in places] == [(np.uint8, (160, 160, 3))] * 2
    assert tiny_predictor._there(places).shape == (2, 64, 64, 3)
