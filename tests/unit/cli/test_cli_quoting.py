"""A value that Hydra's grammar does not take: the message shows the quoting that works."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import pytest
from omegaconf import OmegaConf

from esper.cli.composer import Composer
from esper.cli.flags import Flags, parse_flags
from esper.cli.overrides import override_problems
from esper.cli.plan import make_plan
from esper.config import TolariaConfig
from esper.config.serialization import option_names, option_type, options
from esper.errors import ConfigError
from esper.train import check


def takes_text(kind: Any) -> bool:
    return kind is str or (isinstance(kind, UnionType) and str in get_args(kind))


TEXTS = [name for name in option_names(TolariaConfig) if takes_text(option_type(TolariaConfig, name))]
HARD = [
    "a=b",
    "a, b=c",
    "it's",
    'say "x"',
    "a$b&c;d",
    "[x",
    "{a",
    "a(b)",
    "ünï",
    "a#b!",
    "back\\slash=",
    "a=${b}",
    "x=~",
]


COMPOSER = Composer(Flags())
GROUPS = COMPOSER.groups(())


def message(line: str) -> str:
    [text] = override_problems([line], GROUPS, COMPOSER.parser)
    return text


def word_in(text: str) -> str:
    """The word for the shell that a message ends with, as a shell reads it."""
    found = re.search(r"(?:quotes:| is) ('.*)", text)
    assert found, text
    [line] = shlex.split(found[1])
    return line


def value_of(name: str, line: str) -> object:
    """What the option gets from an override that nothing is wrong with."""
    assert override_problems([line], GROUPS, COMPOSER.parser) == []
    [override] = COMPOSER.parser.parse_overrides([line])
    assert override.key_or_group == name
    return OmegaConf.to_container(OmegaConf.create({"x": override.value()}), resolve=True)["x"]  # type: ignore[index, call-overload]


def composed(*lines: str) -> dict[str, object]:
    return options(make_plan(parse_flags(lines)).jobs[0].config)


def test_every_option_that_takes_a_text_is_tried() -> None:
    assert {"run_dir", "session_name", "dataset.data_root", "checkpoint.resume_from_checkpoint"} <= set(TEXTS)


@pytest.mark.parametrize("name", TEXTS)
def test_the_quoting_that_is_shown_gives_the_text(name: str) -> None:
    assert message(f"{name}=a=b").startswith(f"{name}: given 'a=b', expected quotes: ")
    assert value_of(name, word_in(message(f"{name}=a=b"))) == "a=b"


@pytest.mark.parametrize("text", HARD)
def test_every_character_can_be_given(text: str) -> None:
    assert value_of("session_name", word_in(message(f"session_name={text}"))) == text


@pytest.mark.parametrize(
    ("text", "expected"), [("a,b", "one value"), ("[a, b]", "a text"), ("{a: b}", "a text")]
)
def test_a_text_that_is_read_as_several_values_is_shown_as_one(text: str, expected: str) -> None:
    found = message(f"run_dir={text}")
    assert f"expected {expected}" in found
    assert value_of("run_dir", word_in(found)) == text


def test_a_text_with_commas_outside_of_a_sweep() -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(parse_flags(["session_name=a,b"]))
    [text] = caught.value.problems
    assert text.startswith(
        "session_name: given 'session_name=a,b', expected one value, or --multirun beside it"
    )
    assert composed(word_in(text))["session_name"] == "a,b"


def test_a_leading_tilde_is_written_out() -> None:
    text = message("run_dir=~/x y")
    assert value_of("run_dir", word_in(text)) == f"{Path.home()}/x y"


def test_the_items_of_a_list_are_quoted_one_by_one() -> None:
    text = message("model.target_layers=[body.fc1,a=b,*]")
    assert word_in(text) == 'model.target_layers=[body.fc1,"a=b","*"]'
    assert value_of("model.target_layers", word_in(text)) == ["body.fc1", "a=b", "*"]


def test_the_word_passes_through_a_real_shell() -> None:
    text = message('run_dir=it\'s $HOME="x"')
    shown = re.search(r"quotes: (.*)", text)
    assert shown
    printed = subprocess.run(
        ["bash", "-c", f"printf %s {shown[1]}"], capture_output=True, text=True, check=True
    )
    assert value_of("run_dir", printed.stdout) == 'it\'s $HOME="x"'


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("rundir=a=b", "rundir: given an unknown key (value 'a=b'), expected an option; nearest: run_dir"),
        ("seed=1=2", "seed: given '1=2', expected a whole number"),
        ("model=a=b", "model: given 'a=b', expected one of "),
    ],
)
def test_no_quoting_is_shown_where_it_would_not_help(line: str, text: str) -> None:
    assert message(line).startswith(text)


def test_keys_of_free_dictionaries_need_no_plus_and_keep_their_types() -> None:
    values = {
        "optimization.loss_params.weight=[1.0,9.0]": [1.0, 9.0],
        "optimization.optimizer_params.betas=[0.8,0.9]": [0.8, 0.9],
        "optimization.scheduler_params.t_max=7": 7,
        "model.model_params.width=32": 32,
        "dataset.dataset_params.in_memory=false": False,
        "dataset.augmentation_params.crop_padding=2": 2,
        "logging.wandb_config.note=x": "x",
        "logging.wandb_config.lr=1e-3": 1e-3,
        "logging.wandb_config.number='1'": "1",
        "logging.wandb_config.none=null": None,
    }
    config = composed(*values)
    for line, value in values.items():
        parent, _, key = line.partition("=")[0].rpartition(".")
        found = config[parent][key]  # type: ignore[index]
        assert found == value and type(found) is type(value), line


def test_every_free_dictionary_takes_keys_that_are_not_there_yet() -> None:
    names = [
        name for name in option_names(TolariaConfig) if option_type(TolariaConfig, name) == dict[str, Any]
    ]
    assert "optimization.loss_params" in names
    config = composed(*(f"{name}.new.deep=3" for name in names))
    assert all(config[name]["new"] == {"deep": 3} for name in names)  # type: ignore[index]


def test_a_misspelt_dictionary_is_still_an_unknown_key() -> None:
    found = message("optimization.loss_parms.weight=[1.0]")
    assert found.startswith("optimization.loss_parms.weight: given an unknown key")
    assert found.endswith("nearest: optimization.loss_params")


def test_a_key_of_a_free_dictionary_can_be_swept() -> None:
    plan = make_plan(parse_flags(["--multirun", "model.model_params.width=8,16"]))
    assert [job.config.model.model_params["width"] for job in plan.jobs] == [8, 16]


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("hydra.launcher=basic", "hydra/launcher=basic"),
        ("hydra.launcher=x", "hydra/launcher=basic"),
        ("hydra.launcher=null", "hydra/launcher=basic"),
        ("hydra.sweeper=x", "hydra/sweeper=basic"),
        ("morphogenetic.policy=learnd", "morphogenetic/policy=learned"),
    ],
)
def test_a_group_that_is_written_with_a_dot(line: str, near: str) -> None:
    text = message(line)
    key, group = line.partition("=")[0], near.partition("=")[0]
    assert text.startswith(f"{key}: given ") and f"expected {group}=<option>, one of" in text
    assert text.endswith(f"; nearest: {near}")


def test_the_command_refuses_it_in_one_block() -> None:
    assert check(["--multirun", "hydra.launcher=x", "seed=1,2"]) == [message("hydra.launcher=x")]


def test_the_home_of_nobody_stays_as_it_is() -> None:
    quoted = """'dataset.data_root="~nobody-here/a=b"'"""
    assert check(["--cfg", "job", "dataset.data_root=~nobody-here/a=b"]) == [
        f"dataset.data_root: given '~nobody-here/a=b', expected quotes: {quoted}"
    ]
