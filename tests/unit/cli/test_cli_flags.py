"""The flags of the command line: Hydra's own, and one sentence for each that cannot be."""

from __future__ import annotations

import pytest
from hydra._internal.utils import get_args_parser

from esper.cli.flags import parse_flags
from esper.errors import ConfigError


def test_overrides_may_stand_on_both_sides_of_a_flag() -> None:
    flags = parse_flags(["a=1", "--multirun", "b=2"])
    assert flags.overrides == ("a=1", "b=2")
    assert flags.multirun


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["a=1", "b=2"],
        ["-m", "a=1,2"],
        ["--config-dir", "d", "--config-name", "n", "a=1"],
        ["--cfg", "job", "--resolve", "--package", "model", "a=1"],
        ["--info", "defaults"],
        ["--hydra-help"],
        ["--shell-completion", "install=bash"],
    ],
)
def test_flags_mean_what_they_mean_to_hydra(argv: list[str]) -> None:
    """Written out again, they are to Hydra's own parser what the user wrote."""
    flags = parse_flags(argv)
    passed = [*flags.shows, *(["--multirun"] if flags.multirun else [])]
    passed += ["--config-dir", flags.config_dir] if flags.config_dir is not None else []
    passed += ["--config-name", flags.config_name] if flags.config_name is not None else []
    passed += ["--", *flags.overrides] if flags.overrides else []
    assert get_args_parser().parse_args(passed) == get_args_parser().parse_intermixed_args(argv)


@pytest.mark.parametrize(
    ("argv", "flag", "message"),
    [
        (["--multirn"], "--multirn", "nearest: --multirun"),
        (["--config-nme", "x"], "--config-nme", "nearest: --config-name"),
        (["--cfg", "jbo"], "--cfg", "invalid choice"),
        (["--config-dir"], "--config-dir", "expected one argument"),
        (["--config-path", "x"], "--config-path", "--config-dir"),
        (["--experimental-rerun", "x.pkl"], "--experimental-rerun", "pickle"),
        (["--multirun", "--cfg", "job"], "--multirun", "one of the two"),
        (["--run", "--help"], "--run", "one of the two"),
        (["--resolve"], "--resolve", "--cfg"),
    ],
)
def test_what_cannot_be_is_one_sentence(argv: list[str], flag: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_flags(argv)
    [text] = caught.value.problems
    assert text.startswith(f"{flag}: given ")
    assert ", expected " in text
    assert message in text


def test_only_help_and_cfg_show_a_configuration() -> None:
    assert parse_flags(["--help"]).composes
    assert parse_flags(["--cfg", "all"]).composes
    assert not parse_flags(["--info"]).composes
    assert not parse_flags([]).composes
