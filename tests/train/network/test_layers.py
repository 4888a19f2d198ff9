import pytest
import torch
from torch import nn

from lorat.train.network.blocks.layers import Dense, operand


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
