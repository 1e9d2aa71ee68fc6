"""What is done once in a start: composing the configuration and checking it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from esper import train
from esper.runs import checked_run

SMALL = ("optimization.max_epochs=1", "trainer.limit_train_batches=1", "morphogenetic.tamiyo_enabled=false")


def count(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the calls of a function that still does its work."""
    calls: list[str] = []
    inner = getattr(owner, name)

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        return inner(*arguments, **options)

    monkeypatch.setattr(owner, name, counted)
    return calls


@pytest.mark.parametrize(
    ("arguments", "composed", "checked"),
    [
        ((), 1, 1),
        (("--multirun", "seed=1,2"), 1 + 2, 2),  # the master and each job
    ],
)
def test_a_configuration_is_composed_and_checked_once(
    arguments: tuple[str, ...], composed: int, checked: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["esper-train", *arguments, *SMALL])
    compositions = count(ConfigLoaderImpl, "_load_configuration_impl", monkeypatch)
    checks = count(checked_run, "check_run", monkeypatch)
    assert train.main() == 0
    assert (len(compositions), len(checks)) == (composed, checked)
