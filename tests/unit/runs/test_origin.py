"""A run that begins from another's checkpoint and is killed before it saves begins from it again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.command import events_of, metrics_of, summary_of
from helpers.folders import AUTO, config, content, refused, run
from rich.console import Console
from safetensors.torch import load_file

from esper.errors import CheckpointError, ConfigError
from esper.runs.context import RunContext
from esper.runs.origin import ORIGIN_FILE, record_beginning, recorded_beginning
from esper.runs.trainer import TolariaTrainer


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one epoch that the others begin from; not to be changed."""
    folder = tmp_path_factory.mktemp("first") / "run"
    run(folder)
    return folder


class Killed(BaseException):
    """In place of a SIGKILL: nothing in Esper handles it."""


def killed_after_an_epoch(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """A life that ends after its first epoch's line, before its first save."""
    with monkeypatch.context() as patched:

        def die(*_: object, **__: object) -> None:
            raise Killed

        patched.setattr("esper.tolaria.checkpoint.checkpointer.Checkpointer.save", die)
        trainer = TolariaTrainer(
            config(**options), run_dir=folder, context=RunContext(console=Console(quiet=True))
        )
        with pytest.raises(Killed):
            trainer.run_training()
    assert not (folder / "checkpoints").exists()


def test_auto_begins_from_the_same_checkpoint_again(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result is that of the run which was never killed, also after a second kill."""
    more = {"optimization__max_epochs": 2}
    wanted = {"checkpoint__resume_from_checkpoint": str(first)}
    run(tmp_path / "whole", **wanted, **more)
    new = tmp_path / "new"
    killed_after_an_epoch(new, monkeypatch, **wanted, **more)
    killed_after_an_epoch(new, monkeypatch, **AUTO, **more)
    assert run(new, **AUTO, **more).startswith(f"resumed from {first / 'checkpoints' / 'epoch-0001'}")
    assert metrics_of(new) == metrics_of(tmp_path / "whole")
    (event,) = events_of(new, "run_resumed")
    assert event["from"] == summary_of(new)["resumed_from"] == str(first / "checkpoints" / "epoch-0001")
    a, b = (load_file(f / "models" / "final_model.safetensors") for f in (new, tmp_path / "whole"))
    assert a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


def test_one_that_has_gone_or_is_another_is_asked_for(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_ = tmp_path / "from"
    shutil.copytree(first, from_)
    new = tmp_path / "new"
    given = {"checkpoint__resume_from_checkpoint": str(from_), "optimization__max_epochs": 2}
    killed_after_an_epoch(new, monkeypatch, **given)
    before = content(new)
    saved = from_ / "checkpoints" / "epoch-0001"
    (saved / "manifest.json").write_text("{}")
    assert f"{saved} is another one than it was" in refused(new, **AUTO, optimization__max_epochs=2)
    shutil.rmtree(saved)
    assert f"{saved} is not there any more" in refused(new, **AUTO, optimization__max_epochs=2)
    assert content(new) == before


def test_a_run_from_nothing_has_no_beginning(first: Path, tmp_path: Path) -> None:
    record_beginning(tmp_path, first / "checkpoints" / "epoch-0001")
    assert recorded_beginning(tmp_path) == first / "checkpoints" / "epoch-0001"
    run(tmp_path)
    assert not (tmp_path / ORIGIN_FILE).exists() and recorded_beginning(tmp_path) is None
    assert not (first / ORIGIN_FILE).exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"resumed_from": "a\0", "manifest": "x"})])
def test_a_record_that_cannot_be_read_is_no_fresh_start(tmp_path: Path, text: str) -> None:
    (tmp_path / ORIGIN_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=r"origin\.json"):
        recorded_beginning(tmp_path)
    with pytest.raises(ConfigError, match=r"origin\.json"):
        run(tmp_path, **AUTO)
