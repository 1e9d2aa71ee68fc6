from __future__ import annotations

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from esper.config.quoting import command_word


def read_back(word: str) -> str:
    """What an option gets from a word of a command line, after shell, grammar and interpolation."""
    [line] = shlex.split(word)
    [override] = OverridesParser.create().parse_overrides([line])
    return str(OmegaConf.create({"x": override.value()}).x)


@settings(max_examples=60)
@example("NULL")
@example("${a}")
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1))
def test_any_text_arrives_as_it_is(text: str) -> None:
    assert read_back(command_word("run_dir", text)) == text


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("runs/a-1.b", "run_dir=runs/a-1.b"),
        ("/tmp/x", "run_dir=/tmp/x"),
        ("a=b", "'run_dir=\"a=b\"'"),
        ("a b,c", "'run_dir=\"a b,c\"'"),
        ("2024", "'run_dir=\"2024\"'"),
    ],
)
def test_quotes_stand_only_where_they_are_needed(text: str, word: str) -> None:
    assert command_word("run_dir", text) == word
