"""The registry of blueprints: built-in ones, those registered by a decorator, and entry points."""

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
    """A kind of module that seeds can be built from; made by `register_blueprint`.

    Args:
        name: unique name.
        summary: one line.
        make: `make(shape, **options)` returns a module from (batch, *shape.in_shape) to
            (batch, *shape.out_shape), whose output is added to the layer's output. Its keyword-only arguments
            are the options.
        fits: returns why a shape is not possible, or None; None: a module is built and run to find out.
        offers: returns the options that are offered for a shape; None: the defaults.
        count: `count(shape, **options)` returns the cost; None: the cost is measured.

    Example:
        >>> get_blueprint("mlp").cost(SiteShape("features", (8,), (8,)), hidden=4).params
        92
    """

    name: str
    summary: str
    make: Callable[..., nn.Module]
    fits: Callable[[SiteShape], str | None] | None = None
    offers: Callable[[SiteShape], list[dict[str, Option]]] | None = None
    count: Callable[..., Cost] | None = None
    _costs: dict[Any, Cost] = field(default_factory=dict, repr=False, compare=False)

    def unsupported(self, shape: SiteShape) -> str | None:
        """Return why this blueprint does not fit `shape`, or None where it does."""
        if self.fits is not None:
            return self.fits(shape)
        return trial_mismatch(lambda: self.build(shape), shape)

    def sizes(self, shape: SiteShape) -> list[dict[str, Option]]:
        """Return the options offered for `shape`, ascending by cost; empty where it does not fit."""
        if self.unsupported(shape) is not None:
            return []
        offers = [{}] if self.offers is None else self.offers(shape)
        costs = [(self.cost(shape, **options), options) for options in offers]
        return [options for cost, options in sorted(costs, key=lambda c: (c[0].params, c[0].flops))]

    def cost(self, shape: SiteShape, **options: Option) -> Cost:
        """Return the cost of `build(shape, **options)`; raises `GrowthError` for unknown options."""
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
        """Build a new module.

        Args:
            shape: the shapes that it must map.
            generator: source of the initial weights; None is a generator seeded with 0. The global generators
                are restored.
            **options: keyword-only arguments of `make`.

        Returns:
            The module, on the CPU, in training mode.

        Raises:
            GrowthError: the shape does not fit, or an option is unknown or has a wrong value.
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
    """Decorator that registers a module class or a function as a blueprint.

    The decorated object is called as `make(shape, *, option=default, ...)` and returns an `nn.Module`; the
    first line of its docstring is the summary. It may be registered again under the same name (a notebook
    cell that is run twice).

    Args:
        name: unique name.
        fits: returns why a shape is not possible, or None. Without it a module is built and run to find out.
        offers: returns the options that are offered for a shape. Without it only the defaults are offered.
        count: `count(shape, **options)` returns the cost. Without it the cost is measured.

    Returns:
        The decorator; it returns the decorated object unchanged.

    Raises:
        GrowthError: the name belongs to another blueprint.

    Example:
        >>> @register_blueprint("scale")
        ... def scale(shape, *, hidden=8):
        ...     '''Two linear layers.'''
        ...     first = nn.Linear(shape.channels_in, hidden)
        ...     return nn.Sequential(first, nn.Linear(hidden, shape.channels_out))
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
    """Register `make` under another name, such as its dotted path.

    Args:
        name: the new name.
        make: a registered module class or function, whose other settings are kept; or one that is not
            registered yet.

    Example:
        >>> name_blueprint("my_package.scale", scale)  # doctest: +SKIP
    """
    known = next((b for b in _REGISTRY.values() if _origin(b.make) == _origin(make)), None)
    if known is None:
        register_blueprint(name)(make)
    else:
        _REGISTRY[name] = replace(known, name=name)


def get_blueprint(name: str) -> Blueprint:
    """Look up a blueprint by name; an entry point is imported now.

    Args:
        name: one of `blueprint_names()`.

    Returns:
        The blueprint.

    Raises:
        GrowthError: the name is unknown (the message has the nearest name and the list), or an entry point
            cannot be loaded.

    Example:
        >>> get_blueprint("no_op").name
        'no_op'
    """
    if name not in _REGISTRY and (plugin := _plugins().get(name)) is not None:
        _load(plugin)
    if name not in _REGISTRY:
        raise GrowthError(_unknown_message("blueprint", name, blueprint_names()))
    return _REGISTRY[name]


def blueprint_names() -> list[str]:
    """List the names that `get_blueprint` accepts; entry points are listed without an import.

    Returns:
        The names, sorted.

    Example:
        >>> "mlp" in blueprint_names()
        True
    """
    return sorted({*_REGISTRY, *_plugins()})


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _wrong_value(value: Option, default: object) -> str | None:
    """Return what kind of value an option needs, by its default, or None where `value` is right."""
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
