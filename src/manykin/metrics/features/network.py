"""The small convolutional network whose penultimate layer serves as features."""

import torch
from torch import Tensor, nn
from torch.nn import functional

FEATURES = 64
"""Width of the feature layer: wide enough to tell pictures apart, narrow enough for the covariance of some hundred samples."""
LARGEST = 64
"""Pictures are first reduced to at most so many pixels a side."""
SMALLEST = 4
"""Pictures need at least so many pixels a side."""
WIDTHS = (32, 64, 128)


class FeatureNet(nn.Module):
    """Pictures (n, channels, height, width) of any values to features (n, 64), and from these to class scores where there are classes.

    Values are standardised by the moments of the training pictures (buffers ``mean`` and ``spread``), a picture of more than 64 pixels a side is
    reduced to 64, then convolutions of 3 x 3 with batch normalisation halve it until about 4 pixels a side are left. What is left goes through one
    linear layer and one batch normalisation without scale: these are the features. They are taken before the next rectifier, so that they are
    dense and close to Gaussian, each of mean 0 and variance 1 over the training pictures. The place of things in a picture is kept, since nothing
    is averaged over the picture.

    Args:
        size: channels, height and width of a picture, 4 pixels a side or more.
        outputs: classes, or entries of the projection that self-supervised training looks at.
        projected: whether ``outputs`` belong to such a projection, which gets two hidden layers more.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, size: tuple[int, int, int], outputs: int, projected: bool = False) -> None:
        super().__init__()
        channels, height, width = size
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("spread", torch.ones(channels, 1, 1))
        longest = max(height, width)
        self.reduced = None if longest <= LARGEST else tuple(max(SMALLEST, round(side * LARGEST / longest)) for side in (height, width))
        height, width = self.reduced or (height, width)
        layers: list[nn.Module] = []
        small, large = max(height, width) <= 16, max(height, width) > 32
        for stage, out in enumerate(WIDTHS[: 2 if small else 3]):
            # The first layer of a large picture halves it at once: most of the work of a network lies at its full resolution.
            stride = 2 if stage == 0 and not small else 1
            layers += [nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            height, width = -(-height // stride), -(-width // stride)
            if stage > 0 or small or large:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
                height, width = -(-height // 2), -(-width // 2)
            channels = out
        self.trunk = nn.Sequential(*layers, nn.Conv2d(channels, 128, 3, 1, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU())
        self.to_features = nn.Sequential(nn.Linear(128 * height * width, FEATURES, bias=False), nn.BatchNorm1d(FEATURES, affine=False))
        self.head: nn.Module = nn.Linear(FEATURES, outputs)
        if projected:
            self.head = nn.Sequential(
                nn.Linear(FEATURES, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(), nn.Linear(outputs, outputs, bias=False)
            )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def standardise(self, x: Tensor) -> Tensor:
        """Pictures in data space as float32, standardised and reduced."""
        z = (x.to(torch.float32) - self.mean) / self.spread
        return z if self.reduced is None else functional.interpolate(z, self.reduced, mode="bilinear", antialias=True)

    def features(self, z: Tensor) -> Tensor:
        """Features (n, 64) of standardised pictures."""
        found: Tensor = self.to_features(self.trunk(z.contiguous(memory_format=torch.channels_last)).flatten(1))
        return found

    def scores(self, features: Tensor) -> Tensor:
        """What the features say: class scores (n, classes), or a projection for training."""
        found: Tensor = self.head(functional.relu(features))
        return found
