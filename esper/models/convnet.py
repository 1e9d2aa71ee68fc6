"""A small convolutional network, the host of the quick start."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from esper.errors import ConfigError
from esper.models.arguments import check_image_size, positive_ints


class ConvNet(nn.Module):
    """Blocks of 3x3 convolution, batch norm and ReLU, then average pool and a linear layer.

    Input (batch, channels, *image_size), output (batch, num_classes).

    Args:
        num_classes: number of logits.
        channels: channels of an image.
        image_size: (height, width) in pixels.
        widths: output channels of `block1`, `block2`, ...
        strides: stride of each block; None is 1 for the first and 2 for the others.

    Raises:
        ConfigError: a value is out of range, the lengths differ, or the images are too small.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int,
        image_size: tuple[int, int],
        *,
        widths: Sequence[int] = (8, 16, 32),
        strides: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        widths = positive_ints("widths", widths)
        strides = [1] + [2] * (len(widths) - 1) if strides is None else positive_ints("strides", strides)
        if len(strides) != len(widths):
            raise ConfigError(
                f"model.model_params.strides has {len(strides)} entries, widths has {len(widths)}; "
                "each block needs one of both"
            )
        check_image_size("convnet", image_size, math.prod(strides))
        self._blocks = [f"block{number}" for number in range(1, len(widths) + 1)]
        for name, width, stride in zip(self._blocks, widths, strides, strict=True):
            self.add_module(name, _block(channels, width, stride))
            channels = width
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for name in self._blocks:
            x = getattr(self, name)(x)
        return self.fc(self.pool(x).flatten(1))


def _block(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    # no bias: batch norm subtracts the mean
    conv = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU())
