"""Labels equal the published ones, also for boxes that leave their crop."""

from pathlib import Path

import numpy as np
import pytest

from lorat.train.data.places import CropSpec
from lorat.train.data.samples import make_labels

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.mark.parametrize(("size", "template", "factor"), [(224, 112, 4.0), (378, 196, 5.0)])
def test_masks_cells_and_targets_equal_the_published_ones(size, template, factor):
    golden = np.load(GOLDEN / f"g3_labels_{size}.npz")
    spec = CropSpec(template, size, template // 14, size // 14, 2.0, factor)
    for i in range(len(golden["z_boxes"])):
        (mask,), (positive,), (box,) = make_labels([golden["z_boxes"][i]], [golden["x_boxes"][i]], spec)
        np.testing.assert_array_equal(mask, golden["z_masks"][i].astype(bool))
        np.testing.assert_array_equal(positive, golden["x_label_maps"][i])
        np.testing.assert_allclose(box, golden["x_norm_boxes"][i], rtol=0, atol=1e-7)


def test_a_box_over_the_edge_is_cut_at_the_crop():
    spec = CropSpec(112, 224, 8, 16, 2.0, 4.0)
    boxes = [np.array([-30.0, 20, 60, 90])], [np.array([200.0, -50, 300, 30])]
    (mask,), (positive,), (box,) = make_labels(*boxes, spec)
    np.testing.assert_allclose(box, np.array([200, 0, 224, 30]) / 224, atol=1e-7)
    assert positive.sum() == 2 * 3
    assert mask[:, 0].any()
