"""The registry of architectures, and `build`, which checks a user's `model_params`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from esper.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

TARGETS = {
    "convnet": "esper.models.convnet.ConvNet",
    "mlp": "esper.models.mlp.MLP",
    "resnet18": "esper.models.resnet.resnet18",
    "resnet34": "esper.models.resnet.resnet34",
    "vit": "esper.models.vit.VisionTransformer",
}
DATASET_ARGUMENTS = (
    "num_classes",
    "channels",
    "image_size",
    "input_shape",
)  # come from the dataset, not from model_params

Builder = Callable[..., "nn.Module"]


class ModelRegistry(Mapping[str, Builder]):
    """Read-only mapping of names to model builders; a module is imported when its name is looked up.

    Args:
        targets: names to dotted paths.

    Example:
        >>> "mlp" in MODELS
        True
    """

    def __init__(self, targets: Mapping[str, str]) -> None:
        self._targets = dict(targets)

    def __getitem__(self, name: str) -> Builder:
        module, _, attribute = self._targets[name].rpartition(".")
        return getattr(import_module(module), attribute)

    def __contains__(self, name: object) -> bool:
        return name in self._targets  # without the import that a look-up needs

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)

    def names(self) -> list[str]:
        """Return the names, sorted."""
        return sorted(self._targets)


MODELS = ModelRegistry(TARGETS)


def build(
    name: str, *, num_classes: int, channels: int, image_size: tuple[int, int], **model_params: Any
) -> nn.Module:
    """Build a host network by name.

    Weights are drawn from torch's global generator.

    Args:
        name: an architecture of `MODELS`.
        num_classes: number of logits.
        channels: channels of an image.
        image_size: (height, width) in pixels.
        **model_params: arguments of the architecture.

    Returns:
        A module from (batch, channels, *image_size) to (batch, num_classes).

    Raises:
        ConfigError: the name or a parameter is unknown, a value is out of range, or the images are too small.

    Example:
        >>> build("mlp", num_classes=10, channels=1, image_size=(8, 8), hidden=[32])  # doctest: +ELLIPSIS
        MLP(...
    """
    if name not in MODELS:
        raise ConfigError(f"model.architecture is {name!r}, which is unknown{_nearest(name, MODELS)}")
    builder = MODELS[name]
    known = [key for key in inspect.signature(builder).parameters if key not in DATASET_ARGUMENTS]
    problems = [
        f"model.model_params.{key} is unknown to {name}{_nearest(key, known)}"
        for key in model_params
        if key not in known
    ]
    if problems:
        raise ConfigError(problems)
    return builder(num_classes=num_classes, channels=channels, image_size=image_size, **model_params)


def _nearest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{hint} Known: {', '.join(names)}"
