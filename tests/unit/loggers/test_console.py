from __future__ import annotations

import json
import logging
import re
import shlex
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from esper.config import LoggingConfig
from esper.errors import ConfigError
from esper.leyline import Event, EventName, Level
from esper.loggers import ConsoleLogger, setup_logging

_LOG = logging.getLogger("esper.somewhere")


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """Whatever a test does, the logger is left as it was found: jobs of a sweep share a process."""
    logger = logging.getLogger("esper")
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield
    assert (list(logger.handlers), logger.level, logger.propagate) == before


def _event(name: str, level: str = Level.INFO, **data: Any) -> Event:
    return Event(1.0, name, level, 20, 2, data)


def test_structured_lines_are_words_of_key_and_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    close = setup_logging(LoggingConfig(), tmp_path)
    ConsoleLogger().event(_event(EventName.OPTION_IDLE, note='workers are "idle" a=b', count=3, list=[1, 2]))
    close()
    (line,) = capsys.readouterr().err.splitlines()
    words = dict(word.split("=", 1) for word in shlex.split(line))
    assert datetime.fromisoformat(words.pop("time")).tzinfo is not None
    assert words == {
        "level": "info",
        "logger": "esper.run",
        "message": "option_idle",
        "step": "20",
        "epoch": "2",
        "note": 'workers are "idle" a=b',
        "count": "3",
        "list": "[1, 2]",
    }


def test_json_lines_are_strict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    close = setup_logging(LoggingConfig(log_format="json"), tmp_path)
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        _LOG.exception("two\nlines", extra={"fields": {"loss": float("nan"), "message": "its own"}})
    close()
    (line,) = capsys.readouterr().err.splitlines()
    record = json.loads(line)
    assert (record["level"], record["logger"], record["message"]) == (
        "error",
        "esper.somewhere",
        "two\nlines",
    )
    assert (record["loss"], record["event_message"]) == (None, "its own")
    assert record["exception"].endswith("RuntimeError: broken")


def test_plain_lines_are_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    close = setup_logging(LoggingConfig(log_format="plain"), tmp_path)
    _LOG.warning("low on %s", "space", extra={"fields": {"free": "1 GB"}})
    close()
    assert re.fullmatch(r'\d\d:\d\d:\d\d WARNING low on space free="1 GB"\n', capsys.readouterr().err)


@pytest.mark.parametrize(
    ("level", "message"),
    [("DEBUG", ["d", "i", "w"]), ("info", ["i", "w"]), ("WARNING", ["w"]), ("ERROR", [])],
)
def test_the_level_is_kept(tmp_path: Path, level: str, message: list[str]) -> None:
    close = setup_logging(LoggingConfig(log_level=level, log_format="json", log_file="run.log"), tmp_path)
    _LOG.debug("d")
    _LOG.info("i")
    _LOG.warning("w")
    close()
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert [json.loads(line)["message"] for line in lines] == message


def test_the_file_has_everything_and_stderr_the_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A relative log_file is inside the run folder."""
    close = setup_logging(LoggingConfig(log_file="logs/run.log"), tmp_path)
    logger = ConsoleLogger()
    logger.event(_event(EventName.SEED_HEALTH))
    logger.event(_event(EventName.LOGGER_FAILED, Level.WARNING))
    close()
    assert len((tmp_path / "logs" / "run.log").read_text().splitlines()) == 2
    assert [EventName.LOGGER_FAILED in line for line in capsys.readouterr().err.splitlines()] == [True]


@pytest.mark.parametrize(
    ("progress", "level", "lines"), [(True, "INFO", 2), (False, "INFO", 3), (True, "DEBUG", 3)]
)
def test_routine_events_do_not_flood_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], progress: bool, level: str, lines: int
) -> None:
    """Events that the display shows are not logged to stderr again."""
    close = setup_logging(LoggingConfig(progress=progress, log_level=level), tmp_path)
    logger = ConsoleLogger()
    logger.event(_event(EventName.SEED_STAGE))
    logger.event(_event(EventName.OPTION_IDLE))
    logger.event(_event(EventName.GATE, Level.WARNING))
    close()
    assert len(capsys.readouterr().err.splitlines()) == lines


def test_nothing_reaches_the_root_logger_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    close = setup_logging(LoggingConfig(), tmp_path)
    _LOG.warning("during")
    close()
    _LOG.warning("after")
    assert [record.message for record in caplog.records] == ["after"]


def test_two_jobs_keep_to_their_own_files(tmp_path: Path) -> None:
    """Jobs of a multirun share one process; each closes its own log."""
    for job in ("a", "b"):
        (tmp_path / job).mkdir()
        close = setup_logging(LoggingConfig(log_file="run.log"), tmp_path / job)
        _LOG.info("job %s", job)
        close()
    assert [(tmp_path / job / "run.log").read_text().count("job ") for job in ("a", "b")] == [1, 1]


def test_an_absolute_file_is_where_it_says(tmp_path: Path) -> None:
    path = tmp_path / "else" / "x.log"
    close = setup_logging(LoggingConfig(log_file=str(path)), tmp_path / "run")
    close()
    assert path.exists() and not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", [{"log_level": "LOUD"}, {"log_format": "xml"}])
def test_unknown_names_are_answered_with_the_known(tmp_path: Path, change: dict[str, str]) -> None:
    with pytest.raises(
        ConfigError, match=r"logging\.log_\w+ is '(LOUD|xml)'; it can be (DEBUG|structured), "
    ):
        setup_logging(LoggingConfig(**change), tmp_path)
