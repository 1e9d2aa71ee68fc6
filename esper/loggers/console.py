"""Log lines of the logger `esper`: structured (key=value), json or plain, to stderr and a file."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from esper.config import LoggingConfig
from esper.errors import ConfigError
from esper.leyline import Event, EventName
from esper.loggers.base import Logger
from esper.loggers.json_encoding import to_json_line

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_QUOTED = frozenset(' "=\\')
# Frequent events, and events that the progress bar and the summary table show; the log file has all.
_ROUTINE = frozenset(
    {
        EventName.RUN_STARTED,
        EventName.RUN_RESUMED,
        EventName.RUN_FINISHED,
        EventName.EPOCH_FINISHED,
        EventName.SEED_STAGE,
        EventName.SEED_HEALTH,
        EventName.SEED_IMPACT,
        EventName.GATE,
        EventName.ADAPTATION_APPLIED,
        EventName.ADAPTATION_REFUSED,
        EventName.TOPOLOGY_CHANGED,
        EventName.CHECKPOINT_SAVED,
    }
)


class ConsoleLogger(Logger):
    """Turns each event into a line of the logger `esper`, at the event's own level."""

    def __init__(self) -> None:
        self.name = "log"
        self._log = logging.getLogger("esper.run")

    def event(self, event: Event) -> None:
        fields = {"step": event.step, "epoch": event.epoch, **event.data}
        level = getattr(logging, event.level.upper())
        self._log.log(level, event.name, extra={"fields": fields, "event": event.name})


def setup_logging(config: LoggingConfig, run_dir: Path) -> Callable[[], None]:
    """Send the lines of the logger `esper` to stderr and, where `log_file` is set, to that file.

    A relative `log_file` is inside `run_dir`. With a file, stderr gets warnings and errors only. Beside the
    progress display stderr is spared the routine events, unless the level is DEBUG. Until the returned
    function is called, which takes all of it back, nothing is passed on to the root logger. Raises
    `ConfigError` for an unknown level or format.
    """
    formatter = _Formatter(_format(config.log_format))
    level = _level(config.log_level)
    logger = logging.getLogger("esper")
    handlers: list[logging.Handler] = [_Stderr()]
    if config.progress and level > logging.DEBUG:
        handlers[0].addFilter(_is_notable)
    if config.log_file:
        handlers[0].setLevel(max(level, logging.WARNING))
        handlers.append(_file(Path(run_dir, config.log_file)))
    before = (logger.level, logger.propagate)
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False

    def close() -> None:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(before[0])
        logger.propagate = before[1]

    return close


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is at the time: the live display puts its own in place while it runs."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class _Formatter(logging.Formatter):
    """Lays a record out by one of the functions of `_FORMATS`."""

    def __init__(self, layout: Callable[[dict[str, Any]], str]) -> None:
        super().__init__()
        self._layout = layout

    def format(self, record: logging.LogRecord) -> str:
        fields: Mapping[str, Any] = getattr(record, "fields", {})
        head = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        # a field cannot take the place of the line's own
        fields = {f"event_{key}" if key in head else key: value for key, value in fields.items()}
        trace = {"exception": self.formatException(record.exc_info)} if record.exc_info else {}
        return self._layout({**head, **fields, **trace})


def _structured(line: dict[str, Any]) -> str:
    return " ".join(f"{key}={_value(value)}" for key, value in line.items())


def _plain(line: dict[str, Any]) -> str:
    head = ("time", "level", "logger", "message", "exception")
    rest = " ".join(f"{key}={_value(value)}" for key, value in line.items() if key not in head)
    text = f"{line['time'][11:19]} {line['level'].upper():7} {line['message']} {rest}".rstrip()
    return f"{text}\n{line['exception']}" if "exception" in line else text


def _value(value: Any) -> str:
    """Return a value that stays one word: quoted where it has blanks, quotes or control characters."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    bare = text and text.isprintable() and not _QUOTED & set(text)
    return text if bare else json.dumps(text, ensure_ascii=False)


_FORMATS: dict[str, Callable[[dict[str, Any]], str]] = {
    "structured": _structured,
    "json": to_json_line,
    "plain": _plain,
}


def _format(name: str) -> Callable[[dict[str, Any]], str]:
    if name not in _FORMATS:
        raise ConfigError(f"logging.log_format is {name!r}; it can be {', '.join(_FORMATS)}")
    return _FORMATS[name]


def _level(name: str) -> int:
    if name.upper() not in _LEVELS:
        raise ConfigError(f"logging.log_level is {name!r}; it can be {', '.join(_LEVELS)}")
    return int(getattr(logging, name.upper()))


def _file(path: Path) -> logging.Handler:
    path.parent.mkdir(parents=True, exist_ok=True)
    return logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")


def _is_notable(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or getattr(record, "event", None) not in _ROUTINE
