"""The catalogue of blueprints: built-in ones, those registered with a decorator, and those of plug-ins."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

import torch
from torch import nn

from esper.errors import GrowthError
from esper.kasmina.blueprints.cost import Cost, SiteShape
from esper.kasmina.blueprints.measure import measured_cost, trial_mismatch

Option = int | float | str | bool
Options = Mapping[str, Option]
Maker = TypeVar("Maker", bound=Callable[..., nn.Module])

ENTRY_POINT_GROUP = "esper.blueprints"
_EXPECTED: dict[type, str] = {
    bool: "true or false",
    int: "a positive integer",
    float: "a positive number",
    str: "a text",
}


@dataclass(frozen=True)
class Blueprint:
    """A kind of module that seeds can be grown from.

    `make(shape, **options)` returns the module whose output, of shape `(batch, *shape.out_shape)`, is
    added to the layer's output; its keyword-only arguments are the options. `fits` says why a shape is
    not possible; `offers` lists the sizes on offer; `count` is the cost, measured where it is None.
    """

    name: str
    summary: str
    make: Callable[..., nn.Module]
    fits: Callable[[SiteShape], str | None] | None = None
    offers: Callable[[SiteShape], list[dict[str, Option]]] | None = None
    count: Callable[..., Cost] | None = None
    _costs: dict[Any, Cost] = field(default_factory=dict, repr=False, compare=False)

    def unsupported(self, shape: SiteShape) -> str | None:
        """Why this blueprint does not fit `shape`, or None where it does."""
        if self.fits is not None:
            return self.fits(shape)
        return trial_mismatch(lambda: self.build(shape), shape)

    def sizes(self, shape: SiteShape) -> list[dict[str, Option]]:
        """Options on offer for `shape`, ascending by cost; empty where the blueprint does not fit."""
        if self.unsupported(shape) is not None:
            return []
        offers = [{}] if self.offers is None else self.offers(shape)
        costs = [(self.cost(shape, **options), options) for options in offers]
        return [options for cost, options in sorted(costs, key=lambda c: (c[0].params, c[0].flops))]

    def cost(self, shape: SiteShape, **options: Option) -> Cost:
        """Parameters and FLOPs of `build(shape, **options)`; raises `GrowthError` for unknown options."""
        self._check_options(options)
        key = (shape, tuple(sorted(options.items())))
        if key not in self._costs:
            count = self.count
            self._costs[key] = (
                measured_cost(self.build(shape, None, **options), shape)
                if count is None
                else count(shape, **options)
            )
        return self._costs[key]

    def build(
        self, shape: SiteShape, generator: torch.Generator | None = None, **options: Option
    ) -> nn.Module:
        """A new module for `shape`, on the CPU, in training mode.

        Initial weights are drawn from `generator` (None: one seeded with 0); the global generators are
        left as they were. Raises `GrowthError` where the shape does not fit or an option is wrong.
        """
        self._check_options(options)
        if self.fits is not None and (problem := self.fits(shape)) is not None:
            raise GrowthError(f"blueprint {self.name!r} does not fit: {problem}")
        source = torch.Generator().manual_seed(0) if generator is None else generator
        seed = int(torch.randint(2**62, (), generator=source, device=source.device))
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            # not torch.manual_seed: that would seed the accelerators' generators, too
            torch.default_generator.manual_seed(seed)
            return self.make(shape, **options)

    def _check_options(self, options: Options) -> None:
        parameters = inspect.signature(self.make).parameters.values()
        accepted = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        for name, value in options.items():
            if name not in accepted:
                raise GrowthError(
                    _unknown_message(f"option of blueprint {self.name!r}", name, list(accepted))
                )
            if problem := _wrong_value(value, accepted[name]):
                raise GrowthError(f"blueprint {self.name!r}: {name} is {value!r}; it must be {problem}")


_REGISTRY: dict[str, Blueprint] = {}


def register_blueprint(
    name: str,
    *,
    fits: Callable[[SiteShape], str | None] | None = None,
    offers: Callable[[SiteShape], list[dict[str, Option]]] | None = None,
    count: Callable[..., Cost] | None = None,
) -> Callable[[Maker], Maker]:
    """Decorator that adds a module class or a function `(shape, *, option=default, ...) -> Module`.

    The first line of its docstring is the summary. Without `fits` and `count` a module is built and
    tried to find out whether it fits and what it costs. The same function may be registered again
    (a notebook cell that is run twice); raises `GrowthError` where the name belongs to another.
    """

    def register(make: Maker) -> Maker:
        known = _REGISTRY.get(name)
        if known is not None and _origin(known.make) != _origin(make):
            raise GrowthError(f"blueprint {name!r} is already registered, by {'.'.join(_origin(known.make))}")
        summary = (inspect.getdoc(make) or "").split("\n")[0]
        _REGISTRY[name] = Blueprint(name, summary, make, fits, offers, count)
        return make

    return register


def name_blueprint(name: str, make: Callable[..., nn.Module]) -> None:
    """Let `name`, such as a dotted path, stand for what `make` is registered as, or register it so."""
    known = next((b for b in _REGISTRY.values() if _origin(b.make) == _origin(make)), None)
    if known is None:
        register_blueprint(name)(make)
    else:
        _REGISTRY[name] = replace(known, name=name)


def get_blueprint(name: str) -> Blueprint:
    """The blueprint of that name; raises `GrowthError` with the nearest name and the list."""
    if name not in _REGISTRY and (plugin := _plugins().get(name)) is not None:
        _load(plugin)
    if name not in _REGISTRY:
        raise GrowthError(_unknown_message("blueprint", name, blueprint_names()))
    return _REGISTRY[name]


def blueprint_names() -> list[str]:
    """All names that `get_blueprint` knows; plug-ins are listed without being imported."""
    return sorted({*_REGISTRY, *_plugins()})


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _wrong_value(value: Option, default: object) -> str | None:
    """What an option should have been, going by its default, or None where it is right."""
    kind = next((kind for kind in (bool, int, float, str) if isinstance(default, kind)), None)
    if kind is None:
        return None
    accepted = (int, float) if kind is float else (kind,)
    # a bool is an int to isinstance
    right = isinstance(value, accepted) and isinstance(value, bool) == (kind is bool)
    if kind in (int, float):
        right = right and float(value) > 0
    return None if right else _EXPECTED[kind]


def _load(point: EntryPoint) -> None:
    try:
        make = point.load()
    except (ImportError, AttributeError) as error:
        raise GrowthError(
            f"blueprint {point.name!r} cannot be loaded from {point.value!r}: {error}"
        ) from error
    if point.name not in _REGISTRY:
        if not callable(make):
            raise GrowthError(
                f"blueprint {point.name!r}: {point.value!r} is {make!r}, not a class or function"
            )
        register_blueprint(point.name)(make)


def _origin(make: Callable[..., nn.Module]) -> tuple[str, str]:
    return make.__module__, getattr(make, "__qualname__", repr(make))


def _unknown_message(what: str, name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {what}: {name!r}.{hint} There are: {', '.join(names) or 'none'}."
