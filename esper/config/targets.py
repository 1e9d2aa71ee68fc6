"""Which dotted targets may be named at all, judged by their text alone.

This is the first half of the check and imports nothing; `esper.runs` holds the other half, which looks at
the object that a name resolves to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from esper.config.messages import error_message

PACKAGES = (
    "esper",
    "timm",
    "torch.nn",
    "torch.optim",
    "torch.utils.data",
    "torchjd.aggregation",
    "torchvision",
)
HYDRA_PACKAGES = ("hydra", "hydra_plugins")

TARGET = "_target_"
# For these a class of a notebook or script, which has no name that another process could import, is passed
# to the trainer as an object.
_OBJECTS = {
    "model.architecture": "model",
    "dataset.name": "train_data",
    "callbacks": "callbacks",
}


def is_dotted(value: str) -> bool:
    """Whether a value names a target by its full path rather than by a short name."""
    return "." in value and all(part.isidentifier() for part in value.split("."))


def is_within(dotted: str, packages: Iterable[str]) -> bool:
    """Whether a dotted name is one of the packages or lies inside one."""
    return any(dotted == package or dotted.startswith(f"{package}.") for package in packages)


def children(data: Any, key: str) -> list[tuple[str, Any]]:
    """The place and value of whatever a dictionary or list holds; nothing for other values."""
    if isinstance(data, Mapping):
        return [(f"{key}.{name}", value) for name, value in data.items()]
    if isinstance(data, list | tuple):
        return [(f"{key}[{index}]", value) for index, value in enumerate(data)]
    return []


def nested_targets(data: Any, key: str) -> Iterator[tuple[str, Any]]:
    """The place and value of every `_target_` in plain data, however deep."""
    for place, value in children(data, key):
        if place == f"{key}.{TARGET}":
            yield place, value
        else:
            yield from nested_targets(value, place)


def leftover_problems(data: Any, key: str) -> list[str]:
    """A sentence for every text in resolved data that OmegaConf would still read as an interpolation.

    Hydra's `instantiate` does read it, after any check, and it could turn into a target.
    """
    if isinstance(data, str):
        return [error_message(key, data, "a text without ${ beside a target")] if "${" in data else []
    return [text for place, value in children(data, key) for text in leftover_problems(value, place)]


def name_problems(key: str, target: Any, packages: Sequence[str], nearest: str | None = None) -> list[str]:
    """A sentence where a target is no dotted name or lies in no allowed package."""
    if not isinstance(target, str) or not is_dotted(target):
        return [error_message(key, target, "a dotted target, such as torch.nn.GELU", nearest)]
    if target.startswith("__main__."):
        return [error_message(key, target, _importable_text(key))]
    private = any(part.startswith("__") for part in target.split("."))
    if private or not is_within(target, packages):
        return [error_message(key, target, allowed_text(packages), nearest)]
    return []


def _importable_text(key: str) -> str:
    """What a target has to be in place of a name in `__main__`, in words."""
    importable = "a class in a module that can be imported"
    argument = next((name for place, name in _OBJECTS.items() if is_within(key, [place])), None)
    if argument is None:
        return f"{importable}: write it to a file"
    return f"{importable}: pass one of a notebook or script to TolariaTrainer({argument}=...)"


def allowed_text(packages: Sequence[str]) -> str:
    """What a target has to be, in words."""
    return f"a target in one of {', '.join(packages)}, or in a module that allowed_targets names"
