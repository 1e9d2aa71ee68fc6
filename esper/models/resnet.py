"""Residual networks of basic blocks (He et al. 2015, arXiv:1512.03385), with a stem for small images.

Names of layers and parameters are those of torchvision, so that its saved weights can be loaded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from esper.models.arguments import check_image_size, choice, positive_int

SMALL_IMAGE = 64  # pixels a side up to which the stem keeps the resolution


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection, which is projected where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != channels_out:
            projection = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        h = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(h)) + shortcut)


class ResNet(nn.Module):
    """Stem, four stages `layer1` to `layer4`, average pool, `fc`.

    Input (batch, channels, *image_size), output (batch, num_classes).

    Args:
        num_classes: number of logits.
        channels: channels of an image.
        image_size: (height, width) in pixels.
        depths: blocks of each of the four stages.
        width: channels of the first stage, doubled from stage to stage.
        stem: "small" is a 3x3 convolution, "large" a 7x7 one of stride 2 and a max pool; "auto" takes the
            small one for images of up to 64 pixels.

    Raises:
        ConfigError: a value is out of range, or the images are too small.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int,
        image_size: tuple[int, int],
        *,
        depths: Sequence[int],
        width: int = 64,
        stem: str = "auto",
    ) -> None:
        super().__init__()
        positive_int("width", width)
        small = choice("stem", stem, ("auto", "small", "large")) == "small"
        small = small or (stem == "auto" and max(image_size) <= SMALL_IMAGE)
        check_image_size("resnet", image_size, 8 if small else 32)
        if small:
            self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(channels, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = None if small else nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = _stage(width, width, depths[0], 1)
        self.layer2 = _stage(width, 2 * width, depths[1], 2)
        self.layer3 = _stage(2 * width, 4 * width, depths[2], 2)
        self.layer4 = _stage(4 * width, 8 * width, depths[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        if self.maxpool is not None:
            x = self.maxpool(x)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def _stage(channels_in: int, channels_out: int, depth: int, stride: int) -> nn.Sequential:
    blocks = [BasicBlock(channels_in, channels_out, stride)]
    blocks += [BasicBlock(channels_out, channels_out, 1) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)


def resnet18(
    num_classes: int, channels: int, image_size: tuple[int, int], *, width: int = 64, stem: str = "auto"
) -> ResNet:
    """Build a `ResNet` with 18 layers; see there for the arguments."""
    return ResNet(num_classes, channels, image_size, depths=(2, 2, 2, 2), width=width, stem=stem)


def resnet34(
    num_classes: int, channels: int, image_size: tuple[int, int], *, width: int = 64, stem: str = "auto"
) -> ResNet:
    """Build a `ResNet` with 34 layers; see there for the arguments."""
    return ResNet(num_classes, channels, image_size, depths=(3, 4, 6, 3), width=width, stem=stem)
