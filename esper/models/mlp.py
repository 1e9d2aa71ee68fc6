"""A multilayer perceptron on flattened inputs."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from esper.models.checks import ACTIVATIONS, choice, share, whole_list


class MLP(nn.Module):
    """Linear layers `body.fc1`, `body.fc2`, ... with an activation after each but the last.

    They sit in one container, `body`, from the flattened input to the logits, so that a seed can lie in
    parallel to all of them. Input (batch, channels, *image_size), output (batch, num_classes).
    """

    def __init__(
        self,
        num_classes: int,
        channels: int,
        image_size: tuple[int, int],
        *,
        hidden: Sequence[int] = (128, 128),
        activation: str = "gelu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = [channels * math.prod(image_size), *whole_list("hidden", hidden), num_classes]
        make_activation = ACTIVATIONS[choice("activation", activation, list(ACTIVATIONS))]
        dropout = share("dropout", dropout)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (size_in, size_out) in enumerate(pairwise(sizes), 1):
            layers[f"fc{number}"] = nn.Linear(size_in, size_out)
            if number < len(sizes) - 1:
                layers[f"act{number}"] = make_activation()
                if dropout:
                    layers[f"drop{number}"] = nn.Dropout(dropout)
        self.body = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.flatten(1))
