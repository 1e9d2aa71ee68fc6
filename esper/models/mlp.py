"""A multilayer perceptron on flattened inputs."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from esper.errors import ConfigError
from esper.models.arguments import ACTIVATIONS, choice, fraction, positive_ints


class MLP(nn.Module):
    """Linear layers `body.fc1`, `body.fc2`, ... with an activation after each but the last.

    They are in one container, `body`, from the flattened input to the logits, so that a seed can be parallel
    to all of them. Input (batch, *input_shape), of any shape and real dtype, is flattened and converted to
    the dtype of the weights; output (batch, num_classes).

    Args:
        num_classes: number of logits.
        channels, image_size: shape of an image, instead of `input_shape`.
        input_shape: shape of one input, without the batch.
        hidden: widths of the hidden layers.
        activation: "gelu" or "relu".
        dropout: probability in [0, 1) after each activation.

    Raises:
        ConfigError: the shape of an input is not known, or a value is out of range.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int | None = None,
        image_size: tuple[int, int] | None = None,
        *,
        input_shape: Sequence[int] | None = None,
        hidden: Sequence[int] = (128, 128),
        activation: str = "gelu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        features = _features(channels, image_size, input_shape)
        sizes = [features, *positive_ints("hidden", hidden), num_classes]
        make_activation = ACTIVATIONS[choice("activation", activation, list(ACTIVATIONS))]
        dropout = fraction("dropout", dropout)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (size_in, size_out) in enumerate(pairwise(sizes), 1):
            layers[f"fc{number}"] = nn.Linear(size_in, size_out)
            if number < len(sizes) - 1:
                layers[f"act{number}"] = make_activation()
                if dropout:
                    layers[f"drop{number}"] = nn.Dropout(dropout)
        self.body = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1) if x.dim() > 1 else x.unsqueeze(1)
        return self.body(flat.to(next(self.body.parameters()).dtype))


def _features(
    channels: int | None, image_size: tuple[int, int] | None, input_shape: Sequence[int] | None
) -> int:
    if input_shape is None and channels is not None and image_size is not None:
        input_shape = (channels, *image_size)
    if input_shape is None:
        raise ConfigError("the mlp needs the shape of one input: input_shape, or channels and image_size")
    return math.prod(input_shape)
