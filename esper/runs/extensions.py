"""The user's own trainer, callbacks and loggers, by the targets in the configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from esper.config import TolariaConfig
from esper.config.messages import error_message
from esper.config.targets import TARGET
from esper.errors import ConfigError
from esper.loggers import Logger
from esper.runs.instantiate import arguments, resolve
from esper.runs.resolver import Resolver
from esper.tolaria.callbacks import Callback

if TYPE_CHECKING:
    from esper.runs.trainer import TolariaTrainer

T = TypeVar("T")
_TRAINER = f"trainer.{TARGET}"
_LOGGERS = "logging.loggers"
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
    return found


def build_callbacks(config: TolariaConfig) -> list[Callback]:
    """The callbacks that the option `callbacks` names, in its order. Raises `ConfigError`."""
    return _build(config, "callbacks", config.callbacks, "an esper.Callback", _is_callback)


def build_loggers(config: TolariaConfig) -> list[Logger]:
    """The loggers that `logging.loggers` names, in its order. Raises `ConfigError`."""
    return _build(config, _LOGGERS, config.logging.loggers, "an esper.loggers.Logger", _is_logger)


def extension_problems(config: TolariaConfig) -> list[str]:
    """A sentence for each callback or logger that is forbidden or gets arguments it does not take.

    Nothing is made: a logger may open its files when it is.
    """
    found: list[str] = []
    for key, named in (("callbacks", config.callbacks), (_LOGGERS, config.logging.loggers)):
        found += _entry_problems(key, named)
        found += Resolver(config.allowed_targets).check_nested(key, named)
    return found


def _entry_problems(key: str, named: Mapping[str, Any]) -> Iterator[str]:
    for name, value in named.items():
        if not isinstance(value, Mapping) or TARGET not in value:
            yield error_message(f"{key}.{name}", value, f"a dictionary with {TARGET} and arguments")


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


def _is_logger(value: Any) -> bool:
    return hasattr(value, "name") and all(callable(getattr(value, name, None)) for name in _LOGGER_METHODS)
