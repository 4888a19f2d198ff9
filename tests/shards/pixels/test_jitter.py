"""Jittered windows equal the published ones, draw for draw."""

from pathlib import Path

import numpy as np
import pytest

from lorat.shards.pixels.jitter import Jitter, jitter_window

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.mark.parametrize(("size", "factor"), [(224, 4.0), (378, 5.0)])
def test_windows_acceptance_and_generator_state_equal_the_published_ones(size, factor):
    golden = np.load(GOLDEN / f"g2_jitter_{size}.npz")
    rows = zip(
        golden["boxes"], golden["seeds"], golden["params"], golden["is_positive"], golden["next_random"], strict=True
    )
    for box, seed, params, accepted, following in rows:
        rng = np.random.Generator(np.random.PCG64(int(seed)))
        window = jitter_window(box, factor, size, rng, Jitter())
        assert (window is not None) == accepted
        if window is not None:
            got = np.array([window.scale, window.translation])
            np.testing.assert_allclose(got, params, rtol=0, atol=1e-9)
        assert rng.random() == following


def test_no_jitter_is_the_centred_window():
    rng = np.random.default_rng(0)
    window = jitter_window([10, 20, 50, 60], 4.0, 224, rng, Jitter(0.0, 0.0))
    np.testing.assert_allclose(window.apply([10, 20, 50, 60]), [84, 84, 140, 140])
