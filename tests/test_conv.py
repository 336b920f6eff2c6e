"""Convolutional encoder and decoder."""

import copy

import pytest
import torch
from torch import nn

from manykin.errors import InvalidInput
from manykin.nn import ConvDecoder, ConvEncoder
from manykin.nn.conv import doubled, halved

SIZES = [(1, 5, 7), (1, 1, 1), (1, 8, 8), (2, 28, 28), (3, 9, 4), (1, 1, 6)]


@pytest.mark.parametrize("norm", ["none", "group"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_shapes_and_finite_gradients_of_pictures_of_any_size(size, norm):
    torch.manual_seed(0)
    encoder, decoder = ConvEncoder(size, (8, 12), 6, norm=norm), ConvDecoder(6, (8, 12), size, norm=norm)
    x = torch.randn(5, *size, requires_grad=True)
    h = encoder(x)
    y = decoder(h)
    assert h.shape == (5, 6)
    assert y.shape == x.shape
    y.square().sum().backward()
    parameters = [*encoder.parameters(), *decoder.parameters(), x]
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in parameters)
    # At 1 x 1 only the middle of a 3 x 3 kernel is over the picture, and the first level's normalisation has no pixels to compare.
    assert all(bool(p.grad.any()) for p in parameters if p.dim() == 4 and size[1] * size[2] > 1)


def test_the_sides_are_halved_upwards_and_the_decoder_climbs_back_through_the_same():
    assert halved((5, 7), 3) == [(5, 7), (3, 4), (2, 2), (1, 1)]
    assert halved((1, 6), 2) == [(1, 6), (1, 3), (1, 2)]
    x = torch.arange(6.0).view(1, 1, 2, 3)
    expected = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.equal(doubled(x, 4, 6), expected)
    assert torch.equal(doubled(x, 3, 5), expected[:, :, :3, :5])


def test_the_norm_sees_one_picture_as_a_whole_and_the_brightness_passes_the_first_level():
    torch.manual_seed(0)
    encoder = ConvEncoder((2, 6, 6), (8, 8), 3, norm="group")
    seen = []
    encoder.norms[1].register_forward_hook(lambda _, inputs, output: seen.append(output.detach()))
    x = torch.rand(5, 2, 6, 6)
    outputs = [encoder(x), encoder(3 * x)]
    assert isinstance(encoder.norms[0], nn.Identity)
    for h in seen:
        torch.testing.assert_close(h.flatten(1).mean(dim=1), torch.zeros(5), atol=1e-5, rtol=0)
        torch.testing.assert_close(h.flatten(1).var(dim=1, correction=0), torch.ones(5), atol=1e-2, rtol=0)
    assert not torch.allclose(*outputs)


def test_examples_do_not_depend_on_their_batch():
    torch.manual_seed(0)
    encoder = ConvEncoder((1, 8, 8), (8, 8), 3, norm="group").double()
    decoder = ConvDecoder(3, (8, 8), (1, 8, 8), norm="group").double()
    x = torch.randn(6, 1, 8, 8, dtype=torch.float64)
    whole = decoder(encoder(x))
    torch.testing.assert_close(whole[2:3], decoder(encoder(x[2:3])))


def test_the_context_counts_and_every_pixel_counts():
    torch.manual_seed(0)
    encoder = ConvEncoder((1, 5, 7), (8, 8), 3, context=2)
    x, c = torch.randn(4, 1, 5, 7, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    out = encoder(x, c)
    grad_x, grad_c = torch.autograd.grad(out.square().sum(), (x, c))
    assert bool((grad_x != 0).all())
    assert bool((grad_c != 0).all())


def test_the_last_layer_starts_small():
    torch.manual_seed(0)
    y = ConvDecoder(6, (16, 16), (1, 8, 8))(torch.randn(64, 6))
    assert 0.001 < float(y.detach().std()) < 0.5


def test_spectral_weights_have_norm_one_after_some_passes():
    torch.manual_seed(0)
    encoder = ConvEncoder((1, 8, 8), (8, 8), 1, spectral=True)
    with torch.no_grad():
        for layer in [*encoder.convolutions, encoder.last]:
            layer.parametrizations.weight.original.mul_(7.0)
    x = torch.randn(3, 1, 8, 8)
    for _ in range(30):
        encoder(x)
    for layer in [*encoder.convolutions, encoder.last]:
        assert float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) == pytest.approx(1, abs=0.05)
    encoder.eval()
    twin = copy.deepcopy(encoder)
    assert torch.equal(encoder(x), encoder(x))
    assert torch.equal(encoder(x), twin(x))


def test_dropout_silences_only_in_training():
    torch.manual_seed(0)
    encoder, x = ConvEncoder((1, 8, 8), (8, 8), 3, dropout=0.5), torch.randn(4, 1, 8, 8)
    assert not torch.equal(encoder(x), encoder(x))
    encoder.eval()
    assert torch.equal(encoder(x), encoder(x))


def test_bf16_autocast_gives_the_same_pictures_roughly():
    torch.manual_seed(0)
    encoder, decoder = ConvEncoder((3, 9, 8), (8, 16), 6, norm="group"), ConvDecoder(6, (8, 16), (3, 9, 8), norm="group")
    x = torch.randn(4, 3, 9, 8)
    full = decoder(encoder(x))
    with torch.autocast("cpu", torch.bfloat16):
        half = decoder(encoder(x))
    assert half.dtype == torch.bfloat16
    assert float((half.float() - full).detach().abs().max()) < 0.1 * float(full.detach().abs().max())


def test_layers_work_in_channels_last():
    seen = []
    encoder, decoder = ConvEncoder((1, 8, 8), (8, 8), 3, norm="group"), ConvDecoder(3, (8, 8), (2, 8, 8), norm="group")
    for layer in [*encoder.convolutions, *decoder.convolutions, decoder.last]:
        layer.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
    decoder(encoder(torch.randn(4, 1, 8, 8)))
    assert len(seen) == 5
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (((1, 0, 8), (8,), 3), "size = (1, 0, 8)"),
        (((1, 8, 8), (), 3), "widths = ()"),
        (((1, 8, 8), (8, 0), 3), "widths = (8, 0)"),
    ],
)
def test_impossible_shapes_are_refused(arguments, words):
    with pytest.raises(InvalidInput) as caught:
        ConvEncoder(*arguments)
    assert words in str(caught.value)


def test_unknown_names_are_refused():
    with pytest.raises(InvalidInput, match="norm 'batch'"):
        ConvDecoder(3, (8,), (1, 8, 8), norm="batch")
    with pytest.raises(InvalidInput, match="activation 'swish'"):
        ConvEncoder((1, 8, 8), (8,), 3, activation="swish")
