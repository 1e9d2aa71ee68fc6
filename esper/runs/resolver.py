"""From a name to the class or function it stands for, if that may be called at all.

A name is checked twice: its text, before anything is imported, and then the object it resolves to, whose own
module has to be allowed as well; a name can reach anything that an allowed module has imported.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset, Sampler

from esper.config.aliases import LOSSES, MODELS, SCHEDULERS
from esper.config.messages import error_message, nearest_name
from esper.config.targets import (
    PACKAGES,
    TARGET,
    allowed_text,
    children,
    is_dotted,
    is_within,
    name_problems,
    nested_targets,
)
from esper.errors import ConfigError
from esper.runs.signatures import Target, check_arguments

_KINDS = (nn.Module, Optimizer, LRScheduler, Dataset, Sampler)
_TORCH = ("torch.nn", "torch.optim", "torch.utils.data")
# its pipes open and write files
_NOT_TORCH = ("torch.utils.data.datapipes",)
_ROOMS = ("esper.tolaria.gradients", "esper.data", "esper.kasmina", "esper.models", "esper.tamiyo")
# the functions of Esper itself that a configuration may name
_REGISTERED = (*LOSSES.values(), *MODELS.values(), *SCHEDULERS.values())
_BUILDERS = ("timm.models", "torchvision.models")


class Resolver:
    """Resolves names under the allowed packages and those that `allowed_targets` adds."""

    def __init__(self, allowed_targets: Sequence[str]) -> None:
        self.own = tuple(allowed_targets)
        self.packages = (*PACKAGES, *self.own)

    def resolve(self, key: str, name: str, short: Mapping[str, str]) -> Target:
        """What `name`, the value of the option `key`, stands for: by the table of short names, or itself.

        Raises `ConfigError`.
        """
        if name in short:
            return self.locate(key, short[name])
        near = nearest_name(name.rpartition(".")[2], short)
        found = name_problems(key, name, self.packages, near)
        if short and not is_dotted(name):
            found = [error_message(key, name, f"one of {', '.join(short)}, or a dotted target", near)]
        if found:
            raise ConfigError(found)
        return self.locate(key, name, near)

    def locate(self, key: str, name: str, near: str | None = None) -> Target:
        """The object with this dotted name, of which the text has been checked. Raises `ConfigError`."""
        if is_within(name, self.own):
            _reach_working_folder()
        found = find_object(key, name)
        if not self._permits(found):
            expected = f"{allowed_text(self.packages)} (it is {_full_name(found)})"
            raise ConfigError(error_message(key, name, expected, near))
        target: Target = found
        return target

    def check_nested(self, key: str, data: Any) -> list[str]:
        """A sentence for each target in a dictionary that is forbidden or gets arguments it does not take."""
        found: list[str] = []
        for place, name in nested_targets(data, key):
            try:
                self.resolve(place, str(name), {})
            except ConfigError as error:
                found += error.problems
        return found or _nested_arguments(self, key, data)

    def _permits(self, found: Any) -> bool:
        if isinstance(found, MethodType):
            # a class method that makes one of the user's objects
            return isinstance(found.__self__, type) and is_within(_full_name(found), self.own)
        if not isinstance(found, type | FunctionType):
            return False
        if is_within(_full_name(found), self.own):
            return True
        home = str(found.__module__)
        return _permits_class(found, home) if isinstance(found, type) else _permits_function(found, home)


def find_object(key: str, name: str) -> Any:
    """Import and look up a dotted name in the way Hydra does; raises `ConfigError` where there is none."""
    parts = name.split(".")
    try:
        found: Any = import_module(parts[0])
        for count, part in enumerate(parts[1:], 2):
            if isinstance(found, ModuleType) and not hasattr(found, part):
                found = import_module(".".join(parts[:count]))
            else:
                found = getattr(found, part)
    except Exception as error:  # a module of the user may raise anything when imported
        reason = f"{type(error).__name__}: {error}"
        near = nearest_name(parts[-1], dir(found), 0.6) if "found" in locals() else None
        raise ConfigError(
            error_message(key, name, f"a name that can be imported ({reason})", near)
        ) from error
    return found


def _permits_function(found: FunctionType, home: str) -> bool:
    if is_within(home, ("esper",)):
        return _full_name(found) in _REGISTERED
    public = not found.__name__.startswith("_")
    return public and (home == "torch.nn.functional" or is_within(home, _BUILDERS))


def _permits_class(found: type, home: str) -> bool:
    if is_within(home, (*_ROOMS, "torchvision.transforms")):
        return True
    known = is_within(home, (*_TORCH, "timm", "torchjd.aggregation", "torchvision")) and not is_within(
        home, _NOT_TORCH
    )
    return known and issubclass(found, _KINDS)


def _nested_arguments(resolver: Resolver, key: str, data: Any) -> list[str]:
    found = [text for place, item in children(data, key) for text in _nested_arguments(resolver, place, item)]
    if isinstance(data, Mapping) and TARGET in data:
        target = resolver.locate(f"{key}._target_", data["_target_"])
        found += check_arguments(target, data, key)
    return found


def _full_name(found: Any) -> str:
    owner = found.__self__ if isinstance(found, MethodType) else found
    home = getattr(owner, "__module__", None) or type(owner).__module__
    name = getattr(found, "__qualname__", None) or type(found).__qualname__
    return f"{home}.{name}"


def _reach_working_folder() -> None:
    """Let the modules beside the user be imported, after all others, so that they hide none."""
    folder = str(Path.cwd())
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)
