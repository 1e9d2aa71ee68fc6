"""The user's own trainer, callbacks and loggers, by the targets in the configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from esper.config import TolariaConfig
from esper.config.messages import error_message
from esper.config.targets import TARGET
from esper.errors import ConfigError
from esper.loggers import Logger
from esper.runs.instantiate import arguments, refuse, resolve
from esper.runs.resolver import Resolver
from esper.runs.signatures import RESERVED
from esper.tolaria.callbacks import Callback

if TYPE_CHECKING:
    from esper.runs.trainer import TolariaTrainer

_TRAINER = f"trainer.{TARGET}"
_LOGGER_METHODS = tuple(name for name, member in vars(Logger).items() if callable(member) and name[0] != "_")


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of extension: its option and class, its entries, and whether an object or class is one."""

    key: str
    name: str
    named: Callable[[TolariaConfig], Mapping[str, Any]]
    fits: Callable[[Any], bool]


def _calls(found: Any) -> bool:
    return issubclass(found if isinstance(found, type) else type(found), Callback)


def _logs(found: Any) -> bool:
    return all(callable(getattr(found, name, None)) for name in _LOGGER_METHODS)


_CALLBACKS = _Kind("callbacks", "esper.Callback", lambda config: config.callbacks, _calls)
_LOGGERS = _Kind("logging.loggers", "esper.loggers.Logger", lambda config: config.logging.loggers, _logs)


def trainer_class(config: TolariaConfig) -> type[TolariaTrainer]:
    """The class that `trainer._target_` names: `TolariaTrainer`, or a subclass of it.

    Raises:
        ConfigError: The target cannot be imported, is not allowed, or is no such class.
    """
    from esper.runs.trainer import TolariaTrainer  # that module checks a configuration with this one

    name = config.trainer._target_
    if name in ("esper.TolariaTrainer", f"{TolariaTrainer.__module__}.{TolariaTrainer.__qualname__}"):
        return TolariaTrainer
    found: Any = resolve(config, _TRAINER, name, {})
    if not (isinstance(found, type) and issubclass(found, TolariaTrainer)):
        raise ConfigError(error_message(_TRAINER, name, "a subclass of esper.TolariaTrainer"))
    try:
        inspect.signature(found).bind(config, run_dir=".", context=None)
    except TypeError as error:
        expected = f"a subclass that takes the arguments of TolariaTrainer ({error})"
        raise ConfigError(error_message(_TRAINER, name, expected)) from error
    return found


def build_callbacks(config: TolariaConfig) -> list[Callback]:
    """The callbacks that the option `callbacks` names, in its order. Raises `ConfigError`."""
    return list(_build(config, _CALLBACKS).values())


def build_loggers(config: TolariaConfig) -> list[Logger]:
    """The loggers that `logging.loggers` names, in its order. Raises `ConfigError`."""
    made = _build(config, _LOGGERS)
    for key, logger in made.items():
        if not hasattr(logger, "name"):
            logger.name = key  # under which its state is saved
    return list(made.values())


def extension_problems(config: TolariaConfig) -> list[str]:
    """A sentence for each callback or logger that is forbidden, of another class, or gets wrong arguments.

    Nothing is made: a logger may open its files when it is.
    """
    resolver = Resolver(config.allowed_targets)
    found: list[str] = []
    for kind in (_CALLBACKS, _LOGGERS):
        named = kind.named(config)
        wrong = [*_entry_problems(kind.key, named), *resolver.check_nested(kind.key, named)]
        found += wrong or _class_problems(resolver, kind, named)
    return found


def _entry_problems(key: str, named: Mapping[str, Any]) -> Iterator[str]:
    for name, value in named.items():
        if not isinstance(value, Mapping) or TARGET not in value:
            yield error_message(f"{key}.{name}", value, f"a dictionary with {TARGET} and arguments")
            continue
        for reserved in RESERVED:
            if reserved in value and reserved != TARGET:
                yield error_message(f"{key}.{name}.{reserved}", value[reserved], "a plain argument")


def _class_problems(resolver: Resolver, kind: _Kind, named: Mapping[str, Any]) -> Iterator[str]:
    """A class of another kind; what a function returns is known only when it is called."""
    for name, value in named.items():
        place, target = f"{kind.key}.{name}.{TARGET}", value[TARGET]
        found = resolver.locate(place, target)
        if isinstance(found, type) and not kind.fits(found):
            yield error_message(place, target, f"the name of a subclass of {kind.name}")


def _build(config: TolariaConfig, kind: _Kind) -> dict[str, Any]:
    named = kind.named(config)
    made = arguments(config, kind.key, named)
    refuse(
        [
            error_message(f"{kind.key}.{name}.{TARGET}", named[name][TARGET], f"the name of an {kind.name}")
            for name, value in made.items()
            if isinstance(value, type) or not kind.fits(value)
        ]
    )
    return made
