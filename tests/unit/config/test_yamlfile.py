"""One YAML file, exactly round trip, in the dialect that Hydra reads."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from esper.config import TolariaConfig
from esper.config.yamlfile import escape
from esper.errors import ConfigError

TRICKY = [
    "${a}",
    "\\${a}",
    "\\\\${",
    "${oc.env:HOME}",
    "1e-3",
    "on",
    "null",
    "~",
    "0x1",
    "1_0",
    "12:30",
    "<<",
]
# "???" is how OmegaConf writes a value that is missing
TEXTS = st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: text != "???")
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS | st.sampled_from(TRICKY)
)
TREES = st.recursive(LEAVES, lambda part: st.lists(part) | st.dictionaries(TEXTS, part), max_leaves=8)


@settings(max_examples=40)  # each writes and reads a whole file
@given(st.dictionaries(TEXTS, TREES, max_size=3), TEXTS | st.sampled_from(TRICKY), st.floats(allow_nan=False))
def test_any_configuration_comes_back_equal(free: dict[str, Any], text: str, number: float) -> None:
    config = TolariaConfig(session_description=text)
    config.optimization.optimizer_params = free
    config.optimization.learning_rate = number
    config.model.target_layers = [text]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        config.to_yaml(path)
        assert TolariaConfig.from_yaml(path) == config


@given(TEXTS | st.sampled_from(TRICKY))
def test_escaped_text_means_itself_to_omegaconf(text: str) -> None:
    assert OmegaConf.create({"a": escape(text)}).a == text


def test_interpolations_of_the_user_are_resolved(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("session_name: digits\nsession_description: run of ${session_name}\nseed: 4\n")
    config = TolariaConfig.from_yaml(path)
    assert (config.session_description, config.seed) == ("run of digits", 4)


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").touch()
    assert TolariaConfig.from_yaml(tmp_path / "c.yaml") == TolariaConfig()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1", "not valid YAML"),
        ("- 1\n- 2\n", "dictionary of options"),
        ("session_name: ${nothing}", "nothing"),
        ("sed: 1", "nearest: seed"),
        ("!!python/object/apply:os.system [ls]", "not valid YAML"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_as_one_error(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        TolariaConfig.from_yaml(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.yaml"):
        TolariaConfig.from_yaml(tmp_path / "no.yaml")


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        TolariaConfig.from_yaml(tmp_path / "c.yaml")
