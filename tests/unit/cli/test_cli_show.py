"""What is printed instead of a run: every --cfg, --info and --package of Hydra, with what it is asked for."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

import pytest
import yaml

from esper.cli.flags import parse_flags
from esper.cli.show import shown_text
from esper.errors import ConfigError
from esper.train import check


def shown(line: str) -> str:
    return shown_text(parse_flags(shlex.split(line)))


def problem(line: str) -> str:
    with pytest.raises(ConfigError) as caught:
        shown(line)
    [text] = caught.value.problems
    return text


@pytest.mark.parametrize("rest", ["", "--multirun seed=1,2 model=mlp"])
@pytest.mark.parametrize(
    ("info", "titles"),
    [
        (
            "all",
            [
                "Hydra 1.3",
                "Installed Hydra Plugins",
                "Config search path",
                "Defaults Tree",
                "Defaults List",
                "Config",
            ],
        ),
        ("config", ["Config search path", "Defaults Tree", "Defaults List", "Config"]),
        ("defaults", ["Defaults List"]),
        ("defaults-tree", ["Defaults Tree"]),
        ("plugins", ["Installed Hydra Plugins", "Profiling information"]),
        ("searchpath", ["Config search path"]),
    ],
)
def test_every_info(
    info: str, titles: list[str], rest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = shown(f"--info {info} {rest}")
    lines = [line.strip() for line in text.splitlines()]
    assert [title for title in titles if not any(line.startswith(title) for line in lines)] == []
    model = "model/mlp" if rest else "model/convnet"
    assert ("Defaults List" in titles) == (f"| {model}" in text)
    if info == "defaults-tree":
        assert f"    model: {model.partition('/')[2]}" in text.splitlines()
    if info in ("all", "config"):
        assert f"architecture: {model.partition('/')[2]}" in text
    if "Config search path" in titles:
        assert "| main     | file://" in text and "| schema   | structured://" in text
    assert list(tmp_path.iterdir()) == []


def test_info_without_a_word_means_all_of_it() -> None:
    assert parse_flags(["--info"]).shows == ("--info", "all")
    flags = parse_flags(["-i", "model=mlp", "seed=3"])
    assert (flags.shows, flags.overrides) == (("--info", "all"), ("model=mlp", "seed=3"))
    assert "model: mlp" in shown("--info defaults-tree model=mlp seed=3")


def test_a_wrong_info_and_a_wrong_override_are_one_sentence() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_flags(["--info", "default"])
    assert caught.value.problems[0].startswith("--info: given '--info default'")
    assert problem("--info defaults lr=0.1").endswith("nearest: optimization.learning_rate=0.1")


def test_info_of_a_file_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("optimization: {max_epochs: 3}\n")
    where = f"--config-dir {tmp_path} --config-name mine"
    assert "max_epochs: 3" in shown(f"--info config {where}")
    assert f"file://{tmp_path}" in shown(f"--info searchpath {where}")
    assert yaml.safe_load(shown(f"--cfg job -p optimization.max_epochs {where}")) == 3


def test_the_root_logger_is_left_as_it_was() -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    shown("--info searchpath")
    assert (list(root.handlers), root.level) == before


@pytest.mark.parametrize(
    ("line", "keys"),
    [
        ("--cfg job", {"seed", "model", "optimization"}),
        ("--cfg hydra", {"hydra"}),
        ("--cfg all", {"seed", "model", "hydra"}),
    ],
)
def test_every_cfg(line: str, keys: set[str]) -> None:
    data = yaml.safe_load(shown(f"{line} seed=7"))
    assert keys <= set(data)
    assert data.get("seed", 7) == 7
    assert ("hydra" in data) == ("hydra" in keys)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("-p optimization.learning_rate", 0.003),
        ("--package seed", 0),
        ("-p run_dir", None),
        ("-p morphogenetic.urgency_threshold +experiment=strict", 0.6),
        ("-p dataset.download", True),
        ("-p model.target_layers", [".", "block1", "block2", "block3"]),
    ],
)
def test_a_part_of_the_configuration(line: str, value: object) -> None:
    assert yaml.safe_load(shown(f"--cfg job {line}")) == value


def test_a_group_names_its_package() -> None:
    text = shown("--cfg job -p optimization optimization.max_epochs=9")
    assert text.startswith("# @package optimization\n")
    assert yaml.safe_load(text)["max_epochs"] == 9
    assert "seed" in yaml.safe_load(shown("--cfg job -p _global_"))
    assert yaml.safe_load(shown("--cfg hydra -p hydra.job"))["name"] == "train"


def test_interpolations_are_resolved_where_that_is_asked_for() -> None:
    line = "--cfg job session_name='${model.architecture}-x'"
    assert yaml.safe_load(shown(line))["session_name"] == "${model.architecture}-x"
    assert yaml.safe_load(shown(f"{line} --resolve"))["session_name"] == "convnet-x"


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("optimizaton", "optimization"),
        ("optimization.lr", "optimization"),
        ("model.architectur", "model.architecture"),
    ],
)
def test_a_package_that_does_not_exist(line: str, near: str) -> None:
    text = problem(f"--cfg job -p {line}")
    assert text == f"--package: given '{line}', expected a group or an option; nearest: {near}"


def test_a_package_needs_cfg() -> None:
    assert check(["--package", "model"]) == ["--package: given 'model', expected --cfg beside it"]
