"""Functions with gradients by hand: the same values and gradients as plain operations."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional

from manykin.nn.attention import EPSILON, rotations
from manykin.nn.lean import rms_norm, squared_relu, turn


def plain_turn(x, cos, sin):
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


TABLE = rotations(5, 6)
PAIRS = {
    "rms_norm": (lambda x: rms_norm(x, EPSILON), lambda x: functional.rms_norm(x, (x.shape[-1],), eps=EPSILON)),
    "squared_relu": (squared_relu, lambda x: torch.relu(x).square()),
    "turn": (lambda x: turn(x, *TABLE.to(x.dtype)), lambda x: plain_turn(x, *TABLE.to(x.dtype))),
}


def given(dtype, strided):
    x = torch.randn(2, 5, 3, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    return x[:, :, :2] if strided else x[:, :, :2].contiguous()


@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("name", PAIRS)
def test_gradients_are_those_of_finite_differences(name, strided):
    ours, _ = PAIRS[name]
    x = given(torch.float64, strided).detach().requires_grad_()
    assert gradcheck(lambda z: ours(z), (x,), atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients_are_those_of_plain_operations(name, dtype):
    ours, plain = PAIRS[name]
    found = []
    for function in (ours, plain):
        x = given(dtype, True).detach().requires_grad_()
        y = function(x)
        y.backward(torch.linspace(-1, 1, y.numel()).view_as(y).to(dtype))
        assert y.dtype == x.grad.dtype == dtype
        found.append((y.detach(), x.grad))
    near = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=near, rtol=near)


def test_zeros_are_normalised_to_zeros_with_finite_gradients():
    x = torch.zeros(2, 4, requires_grad=True)
    rms_norm(x, EPSILON).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert not rms_norm(x, EPSILON).any()
