"""What `--help` shows: each option with value, help text, type, limits and default, at any width."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.types import RunMode

from esper.cli.composer import Composer
from esper.cli.flags import Flags
from esper.cli.help import help_text
from esper.config import TolariaConfig
from esper.config.option import option_infos
from esper.config.serialization import option_names

Help = Callable[..., str]


@pytest.fixture(scope="module")
def shown() -> Help:
    composer = Composer(Flags())
    groups = composer.groups(())

    def text(*overrides: str, width: int | None = None) -> str:
        return help_text(groups, composer.compose(overrides, RunMode.RUN), width)

    return text


def test_an_option_has_its_value_help_type_limits_and_default(shown: Help) -> None:
    assert (
        "  optimization.learning_rate=0.02\n"
        "      Learning rate of the host; the scheduler multiplies it.\n"
        "      (float; above 0; default 0.001)\n"
    ) in shown("optimization.learning_rate=0.02", width=80)


def test_every_option_is_there_once_under_its_group_with_its_help_text(shown: Help) -> None:
    text = shown(width=80)
    lines = text.splitlines()
    names = [line.strip().partition("=")[0] for line in lines if line.startswith("  ") and line[2] != " "]
    assert [name for name in names if name in option_infos(TolariaConfig)] == list(
        option_names(TolariaConfig)
    )
    assert lines.index("optimization") < lines.index("morphogenetic") < lines.index("morphogenetic.seed")
    flat = " ".join(text.split())
    assert [key for key, info in option_infos(TolariaConfig).items() if info.help not in flat] == []


def test_groups_have_their_choices_and_hydra_is_left_out(shown: Help) -> None:
    text = shown(width=100)
    assert "  dataset: cifar10, cifar100, custom, digits," in text
    assert "launcher" not in text


@pytest.mark.parametrize("width", [80, 40])
def test_a_line_is_no_wider_than_the_terminal_unless_it_is_one_word(shown: Help, width: int) -> None:
    assert [
        line for line in shown(width=width).splitlines() if len(line) > width and " " in line.strip()
    ] == []


def test_without_a_terminal_80_columns_are_assumed(shown: Help, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("sys.__stdout__", None)
    assert shown() == shown(width=80)
    monkeypatch.setenv("COLUMNS", "40")
    assert shown() == shown(width=40)


def test_an_interpolation_that_cannot_be_resolved_is_shown_as_it_stands(shown: Help) -> None:
    assert '  session_name="${nowhere}"\n' in shown("session_name=${nowhere}", width=80)


def test_the_command_prints_it_into_a_pipe_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['esper-train', '--help']\n"
        "from esper.train import main\n"
        "code = main()\n"
        "sys.exit(9 if 'torch' in sys.modules else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "60"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "      (int; in epochs, at least 1; default 100)\n" in done.stdout
