"""The user's own trainer, callbacks and loggers, by the targets in the configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from esper.config import TolariaConfig
from esper.config.messages import error_message
from esper.config.targets import TARGET
from esper.errors import ConfigError
from esper.loggers import Logger
from esper.runs.instantiate import arguments, resolve
from esper.runs.resolver import Resolver
from esper.runs.signatures import RESERVED
from esper.tolaria.callbacks import Callback

if TYPE_CHECKING:
    from esper.runs.trainer import TolariaTrainer

T = TypeVar("T")
_TRAINER = f"trainer.{TARGET}"
_LOGGERS = "logging.loggers"
_NAMES: Mapping[type, str] = {Callback: "esper.Callback", Logger: "esper.loggers.Logger"}
_LOGGER_METHODS = tuple(name for name, member in vars(Logger).items() if callable(member) and name[0] != "_")


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
    return _build(config, "callbacks", config.callbacks, "an esper.Callback", _is_callback)


def build_loggers(config: TolariaConfig) -> list[Logger]:
    """The loggers that `logging.loggers` names, in its order. Raises `ConfigError`."""
    made = _build(config, _LOGGERS, config.logging.loggers, "an esper.loggers.Logger", _logs)
    for key, logger in zip(config.logging.loggers, made, strict=True):
        if not hasattr(logger, "name"):
            logger.name = key  # under which its state is saved
    return made


def extension_problems(config: TolariaConfig) -> list[str]:
    """A sentence for each callback or logger that is forbidden or gets arguments it does not take.

    Nothing is made: a logger may open its files when it is.
    """
    found: list[str] = []
    for key, named, kind in (
        ("callbacks", config.callbacks, Callback),
        (_LOGGERS, config.logging.loggers, Logger),
    ):
        resolver = Resolver(config.allowed_targets)
        wrong = [*_entry_problems(key, named), *resolver.check_nested(key, named)]
        found += wrong or _kind_problems(resolver, key, named, kind)
    return found


def _entry_problems(key: str, named: Mapping[str, Any]) -> Iterator[str]:
    for name, value in named.items():
        if not isinstance(value, Mapping) or TARGET not in value:
            yield error_message(f"{key}.{name}", value, f"a dictionary with {TARGET} and arguments")
            continue
        for reserved in RESERVED:
            if reserved in value and reserved != TARGET:
                yield error_message(f"{key}.{name}.{reserved}", value[reserved], "a plain argument")


def _kind_problems(resolver: Resolver, key: str, named: Mapping[str, Any], kind: type) -> Iterator[str]:
    """A class that is none of `kind`; what a function returns is known only when it is called."""
    for name, value in named.items():
        place, target = f"{key}.{name}.{TARGET}", value[TARGET]
        found = resolver.locate(place, target)
        fits = not isinstance(found, type) or (kind in found.__mro__ if kind is Callback else _logs(found))
        if not fits:
            yield error_message(place, target, f"the name of a subclass of {_NAMES[kind]}")


def _logs(logger: Any) -> bool:
    return all(callable(getattr(logger, name, None)) for name in _LOGGER_METHODS)


def _build(
    config: TolariaConfig, key: str, named: Mapping[str, Any], expected: str, fits: Callable[[Any], bool]
) -> list[Any]:
    made = arguments(config, key, named)
    wrong = [name for name, value in made.items() if not fits(value)]
    if wrong:
        raise ConfigError(
            [error_message(f"{key}.{n}.{TARGET}", named[n][TARGET], f"the name of {expected}") for n in wrong]
        )
    return list(made.values())


def _is_callback(value: Any) -> bool:
    return isinstance(value, Callback)
