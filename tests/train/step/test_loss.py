from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorat.configs.schema import TrainConfig
from lorat.train.network.blocks.lorat import Prediction
from lorat.train.network.variants import build_network
from lorat.train.step.loss import Objective, box_overlaps, losses_of, tracking_loss
from lorat.train.step.optimizer import box_weight

GOLDEN = Path(__file__).parents[2] / "golden" / "g5_criterion_16.npz"


def case():
    arrays = {name: torch.from_numpy(a) for name, a in np.load(GOLDEN).items() if a.ndim}
    positive = torch.zeros(4, 256, dtype=torch.bool)
    positive[arrays["pos_batch"], arrays["pos_map"]] = True
    prediction = Prediction(arrays["score_map"].requires_grad_(True), arrays["boxes"].requires_grad_(True))
    return prediction, positive.view(4, 16, 16), arrays


def test_losses_and_gradients_are_the_published_ones():
    prediction, positive, arrays = case()
    losses = tracking_loss(prediction, positive, arrays["gt_boxes"], arrays["num_pos"].squeeze())
    losses.total.backward()
    wanted = np.load(GOLDEN)
    published = [float(wanted[name]) for name in ("loss", "loss_bce", "loss_giou")]
    assert [value.item() for value in losses] == pytest.approx(published, rel=1e-6)
    for name, tensor in (("grad_score", prediction.score_map), ("grad_boxes", prediction.boxes)):
        np.testing.assert_allclose(tensor.grad, wanted[name], rtol=1e-4, atol=1e-7)


def test_overlaps_are_the_published_targets():
    prediction, _, arrays = case()
    iou, _ = box_overlaps(prediction.boxes, arrays["gt_boxes"][:, None, None])
    chosen = iou.flatten(1)[arrays["pos_batch"], arrays["pos_map"]]
    torch.testing.assert_close(chosen, arrays["iou_target"], rtol=1e-5, atol=1e-6)


def test_micro_batches_with_the_common_count_sum_to_the_whole():
    prediction, positive, arrays = case()
    count = positive.sum()
    whole = tracking_loss(prediction, positive, arrays["gt_boxes"], count)
    parts = [
        tracking_loss(Prediction(*(p[rows] for p in prediction)), positive[rows], arrays["gt_boxes"][rows], count)
        for rows in (slice(0, 1), slice(1, 4))
    ]
    for part, rest, wanted in zip(*parts, whole, strict=True):
        torch.testing.assert_close(part + rest, wanted)


def test_a_pair_without_the_object_adds_score_loss_only_and_no_nan():
    prediction, positive, arrays = case()
    positive[1] = False
    boxes = arrays["gt_boxes"].clone()
    boxes[1] = 0.0
    with torch.no_grad():  # a degenerate box on the zero box of the absent object
        prediction.boxes[1, 0, 0] = 0.0
    losses = tracking_loss(prediction, positive, boxes, positive.sum())
    losses.total.backward()
    assert all(torch.isfinite(value) for value in losses) and torch.isfinite(prediction.boxes.grad).all()
    assert (prediction.boxes.grad[1] == 0).all() and (prediction.score_map.grad[1] > 0).all()


def test_a_batch_without_any_object_is_finite():
    prediction, positive, _ = case()
    nothing = torch.zeros_like(positive)
    losses = tracking_loss(prediction, nothing, torch.zeros(4, 4), torch.tensor(1.0))
    losses.total.backward()
    assert torch.isfinite(losses.total) and losses.box == 0
    assert (prediction.boxes.grad == 0).all()


def test_bfloat16_predictions_give_float32_losses():
    prediction, positive, arrays = case()
    rough = Prediction(*(p.bfloat16() for p in prediction))
    assert tracking_loss(rough, positive, arrays["gt_boxes"], positive.sum()).total.dtype == torch.float32


def test_normalising_is_the_published_formula(tiny_variant):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    variant = tiny_variant.model_copy(update={"mean": mean, "std": std})
    objective = Objective(build_network(variant), variant, torch.float32)
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    expected = images.double() / 255
    expected = (expected - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    got = objective.normalise(images)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)


sides = st.tuples(*[st.floats(-1, 1, width=32)] * 2, *[st.floats(0, 1, width=32)] * 2)


@settings(max_examples=200, deadline=None)
@given(sides, sides)
def test_overlaps_stay_in_range_and_are_symmetric(first, second):
    boxes = [torch.tensor([x, y, x + w, y + h]) for x, y, w, h in (first, second)]
    iou, giou = box_overlaps(*boxes)
    assert -1e-6 <= iou <= 1 + 1e-5
    assert -1 - 1e-5 <= giou <= iou + 1e-6
    torch.testing.assert_close(box_overlaps(*boxes[::-1]), (iou, giou))


def test_equal_boxes_overlap_fully():
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.9]])
    assert list(map(float, box_overlaps(boxes, boxes))) == pytest.approx([1.0, 1.0])


def test_losses_of_search_crops_are_added_each_divided_by_its_own_cells_and_boxes_count_by_their_weight():
    prediction, positive, arrays = case()
    other = Prediction(prediction.score_map.detach().roll(1, 0), prediction.boxes.detach())
    fewer = positive.clone()
    fewer[:2] = False
    both, boxes = torch.stack([positive, fewer], dim=1), torch.stack([arrays["gt_boxes"]] * 2, dim=1)
    counts, weight = both.sum((0, 2, 3)).float(), torch.tensor(10.0)
    found = losses_of((prediction, other), both, boxes, counts, weight)
    alone = [
        tracking_loss(p, cells, arrays["gt_boxes"], cells.sum())
        for p, cells in ((prediction, positive), (other, fewer))
    ]
    for name in ("score", "box"):
        torch.testing.assert_close(getattr(found, name), torch.stack([getattr(one, name) for one in alone]))
    torch.testing.assert_close(found.total, (found.score + 10 * found.box).sum())
    found.total.backward()
    published = np.load(GOLDEN)
    np.testing.assert_allclose(prediction.score_map.grad, published["grad_score"], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(prediction.boxes.grad, 10 * published["grad_boxes"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("epochs", "warm"), [(0.0, 0), (2.0, 6), (0.5, 2)])
def test_boxes_count_ten_times_in_the_first_epochs(epochs, warm):
    recipe = TrainConfig(batch_size=8, pairs_per_epoch=24, epochs=3, box_warmup_epochs=epochs)
    assert [box_weight(step, recipe) for step in range(9)] == [10.0] * warm + [1.0] * (9 - warm)
