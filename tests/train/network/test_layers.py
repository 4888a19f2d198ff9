import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lorat.train.network.blocks import layers
from lorat.train.network.blocks.layers import Dense, operand, product, product_over_rows


def tensors(dtype, rows=(3, 5)):
    torch.manual_seed(0)
    return (torch.randn(*shape).to(dtype) for shape in ((*rows, 8), (6, 8), (6,)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_dense_layer_computes_the_same_with_and_without_gradients(dtype):
    x, weight, bias = tensors(dtype)
    layer = Dense.holding(weight, bias)
    x = x.float()
    followed = layer(x)
    assert followed.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(layer(x), followed, rtol=1e-2, atol=1e-2)
        part = layer.outputs(x, 2, 5)
    torch.testing.assert_close(part, followed[..., 2:5].detach(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("autocast", "weight", "expected"),
    [
        (True, torch.float32, torch.bfloat16),
        (False, torch.bfloat16, torch.bfloat16),
        (False, torch.float32, torch.float32),
    ],
)
def test_autocast_or_else_the_weight_decides_the_number_type_of_an_operand(autocast, weight, expected):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert operand(torch.ones(2), nn.Linear(2, 2).to(weight)).dtype == expected


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch is built without oneDNN")
@pytest.mark.parametrize("by_onednn", [False, True])
def test_a_product_is_the_same_by_either_library_however_its_operands_lie(by_onednn, monkeypatch):
    monkeypatch.setattr(layers, "_is_onednn_faster", lambda: by_onednn)
    x, weight, bias = torch.randn(4, 160, 96), torch.randn(64, 96), torch.randn(64)
    rows, wide = x.flatten(0, 1), torch.randn(640, 192)
    cases = [(x, weight, bias), (rows, weight.t().contiguous().t(), None), (rows.t().contiguous().t(), weight, bias)]
    for left, right, offset in [*cases, (wide[:, 96:], weight, None), (weight, wide[:, 96:], None)]:
        expected = left.double() @ right.double().t() + (0.0 if offset is None else offset.double())
        torch.testing.assert_close(product(left, right, offset).double(), expected, rtol=1e-5, atol=1e-4)
    for right in (wide, wide[:, 96:]):
        expected = right.double().t() @ rows[:, :32].double()
        torch.testing.assert_close(product_over_rows(right, rows[:, :32]).double(), expected, rtol=1e-5, atol=1e-4)


def test_what_is_small_not_float32_or_part_of_a_matrix_is_not_for_onednn(monkeypatch):
    monkeypatch.setattr(layers, "_is_onednn_faster", lambda: True)
    x, weight, wide = torch.randn(640, 96), torch.randn(64, 96), torch.randn(640, 192)
    assert layers._is_for_onednn(x, weight)
    assert not layers._is_for_onednn(x[:8], weight)
    assert not layers._is_for_onednn(x.bfloat16(), weight.bfloat16())
    assert not layers._is_for_onednn(x.t(), wide[:, 96:].t())
    assert not layers._is_for_onednn(x.to("meta"), weight.to("meta"))
    with FakeTensorMode() as mode:
        assert not layers._is_for_onednn(mode.from_tensor(x), mode.from_tensor(weight))
