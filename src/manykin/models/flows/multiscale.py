"""A flow of pictures at several scales: checkerboard and channel couplings, squeezes, and parts that leave early."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from manykin.nn import ActNorm, GridNet

START = 1024
"""Training rows from which the ActNorm layers of pictures start: a network of convolutions needs much memory for more."""


class MaskedAffine(nn.Module):
    """Scale and shift the pixels where a mask is 0 by functions of those where it is 1: (n, c, h, w) to the same.

    Dinh, Sohl-Dickstein and Bengio, Density estimation using Real NVP, 2017, equation 9, with ``s = factor * tanh(...)`` as for rows.

    Args:
        mask: which entries stay, of zeros and ones, shape (c, h, w).
        width, blocks, context, dropout: of the network (:class:`~manykin.nn.GridNet`).
    """

    mask: Tensor

    def __init__(self, mask: Tensor, *, width: int, blocks: int, context: int, dropout: float) -> None:
        super().__init__()
        channels, height, columns = mask.shape
        self.register_buffer("mask", mask.float(), persistent=False)
        self.factor = nn.Parameter(torch.full((channels, 1, 1), 2.0))
        self.net = GridNet(channels, (height, columns), 2 * channels, width=width, blocks=blocks, context=context, dropout=dropout)

    def _affine(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        mask = self.mask.to(z.dtype)
        raw, shift = self.net(mask * z, context).to(z.dtype).chunk(2, dim=1)
        return (1 - mask) * self.factor * torch.tanh(raw), (1 - mask) * shift

    def forward(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """h and the log-determinants, shapes (n, c, h, w) and (n,)."""
        log_scale, shift = self._affine(z, context)
        return z * log_scale.exp() + shift, log_scale.flatten(1).sum(dim=1)

    def inverse(self, h: Tensor, context: Tensor | None) -> Tensor:
        """The z that :meth:`forward` maps to h."""
        log_scale, shift = self._affine(h, context)
        return (h - shift) * (-log_scale).exp()


class Scale(nn.Module):
    """Couplings at one resolution, each behind an ActNorm layer over channels."""

    def __init__(self, masks: list[Tensor], *, width: int, blocks: int, context: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(ActNorm(len(mask)) for mask in masks)
        self.steps = nn.ModuleList(MaskedAffine(mask, width=width, blocks=blocks, context=context, dropout=dropout) for mask in masks)

    def forward(self, z: Tensor, context: Tensor | None, start: bool = False) -> tuple[Tensor, Tensor]:
        """h and the log-determinants; with ``start`` each ActNorm starts from the pixels as they arrive at it."""
        total = torch.zeros(len(z), dtype=z.dtype, device=z.device)
        pixels = z.shape[2] * z.shape[3]
        for norm, step in zip(self.norms, self.steps, strict=True):
            assert isinstance(norm, ActNorm)
            if start:
                norm.start(z.transpose(0, 1).flatten(1).T)
            last, constant = norm(z.movedim(1, -1))
            z, ldj = step(last.movedim(-1, 1), context)
            total = total + ldj + pixels * constant
        return z, total

    def inverse(self, h: Tensor, context: Tensor | None) -> Tensor:
        """The z that :meth:`forward` maps to h."""
        for norm, step in zip(reversed(self.norms), reversed(self.steps), strict=True):
            assert isinstance(norm, ActNorm) and isinstance(step, MaskedAffine)
            h = norm.inverse(step.inverse(h, context).movedim(1, -1)).movedim(-1, 1)
        return h


class MultiScale(nn.Module):
    """Pictures (n, c, h, w) to (n, d) through resolutions (Dinh, Sohl-Dickstein and Bengio, 2017, sections 3.4 to 3.6).

    At each resolution three couplings with checkerboard masks; then squares of 2 x 2 pixels become channels, three couplings with channel masks
    follow, and half of the channels leave for the base. Where a side is odd or less than 4 the picture cannot be squeezed further: four checkerboard
    couplings end the flow, so that pictures of odd sizes are taken at one resolution.

    Args:
        size: channels, height and width; at least two pixels.
        width, blocks, context, dropout: of the networks.
    """

    def __init__(self, size: tuple[int, int, int], *, width: int, blocks: int, context: int, dropout: float) -> None:
        super().__init__()
        self.size, self.scales, self.shapes = size, nn.ModuleList(), []
        channels, height, columns = size
        net = {"width": width, "blocks": blocks, "context": context, "dropout": dropout}
        while height % 2 == 0 and columns % 2 == 0 and min(height, columns) >= 4:
            self.scales.append(Scale([checkerboard(channels, height, columns, number) for number in range(3)], **net))  # type: ignore[arg-type]
            channels, height, columns = 4 * channels, height // 2, columns // 2
            self.scales.append(Scale([alternate(channels, height, columns, number) for number in range(3)], **net))  # type: ignore[arg-type]
            channels //= 2
            self.shapes.append((channels, height, columns))
        self.scales.append(Scale([checkerboard(channels, height, columns, number) for number in range(4)], **net))  # type: ignore[arg-type]
        self.shapes.append((channels, height, columns))

    def start(self, z: Tensor, context: Tensor | None) -> None:
        """Start each ActNorm that has not been started from the first rows."""
        self._pass(z[:START], None if context is None else context[:START], start=True)

    def forward(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """h and the log-determinants, shapes (n, d) and (n,)."""
        return self._pass(z, context)

    def _pass(self, z: Tensor, context: Tensor | None, start: bool = False) -> tuple[Tensor, Tensor]:
        left, total = [], torch.zeros(len(z), dtype=z.dtype, device=z.device)
        for number, scale in enumerate(self.scales):
            if number % 2:
                z = functional.pixel_unshuffle(z, 2)
            z, ldj = scale(z, context, start)
            total = total + ldj
            if number % 2:
                leaves, z = z.chunk(2, dim=1)
                left.append(leaves.flatten(1))
        return torch.cat([*left, z.flatten(1)], dim=1), total

    def inverse(self, h: Tensor, context: Tensor | None) -> Tensor:
        """The z that :meth:`forward` maps to h."""
        parts = [
            part.view(len(h), *shape)
            for part, shape in zip(torch.split(h, [c * y * x for c, y, x in self.shapes], dim=1), self.shapes, strict=True)
        ]  # fmt: skip
        z = parts.pop()
        for number in reversed(range(len(self.scales))):
            if number % 2:
                z = torch.cat([parts.pop(), z], dim=1)
            z = self.scales[number].inverse(z, context)  # type: ignore[operator]
            if number % 2:
                z = functional.pixel_shuffle(z, 2)
        return z


def checkerboard(channels: int, height: int, columns: int, parity: int) -> Tensor:
    """Ones where row + column + parity is even."""
    board = (torch.arange(height)[:, None] + torch.arange(columns) + parity) % 2 == 0
    return board.float().expand(channels, height, columns).clone()


def alternate(channels: int, height: int, columns: int, parity: int) -> Tensor:
    """Ones in the even or the odd channels."""
    return ((torch.arange(channels) + parity) % 2 == 0).float()[:, None, None].expand(channels, height, columns).clone()
