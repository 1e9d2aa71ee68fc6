"""Composition without side effects, from shipped and from own folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.types import RunMode

from esper.cli.composer import Composer, find_conf, plain
from esper.cli.flags import Flags
from esper.errors import ConfigError


def test_the_shipped_configuration_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (find_conf() / "config.yaml").is_file()
    assert find_conf().is_absolute()


def test_composing_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    composed = Composer(Flags()).compose(["seed=3", "model=mlp"], RunMode.RUN)
    assert (composed.seed, composed.model.architecture) == (3, "mlp")
    assert list(tmp_path.iterdir()) == []


def test_no_run_writes_a_log_of_hydras(tmp_path: Path) -> None:
    """C8 says what a run folder holds; Hydra's own train.log is not among it."""
    composed = Composer(Flags()).compose([], RunMode.RUN)
    assert composed.hydra.job_logging.root is None
    assert composed.hydra.hydra_logging.root is None
    assert composed.hydra.job.chdir is False


def test_groups_of_further_folders_are_known(tmp_path: Path) -> None:
    for folder in ("added", "searched"):
        (tmp_path / folder / "model").mkdir(parents=True)
        (tmp_path / folder / "model" / f"{folder}.yaml").write_text("architecture: mlp\n")
    composer = Composer(Flags(config_dir=str(tmp_path / "added")))
    line = f"hydra.searchpath=[file://{tmp_path}/searched]"
    assert {"added", "searched", "convnet"} <= set(composer.groups([line])["model"])
    assert "searched" not in composer.groups([])["model"]
    assert composer.compose([line, "model=searched"], RunMode.RUN).model.architecture == "mlp"


def test_every_group_of_the_shipped_configuration_can_be_chosen_beside_a_file(tmp_path: Path) -> None:
    """A file that holds only options still lets the command line choose groups."""
    (tmp_path / "few.yaml").write_text("seed: 1\n")
    composer = Composer(Flags(config_dir=str(tmp_path), config_name="few"))
    for group, options in composer.groups(()).items():
        if group.partition("/")[0] != "hydra":
            composed = composer.compose([f"{group}={options[0]}"], RunMode.RUN)
            assert composed.hydra.runtime.choices[group] == options[0]


@pytest.mark.parametrize("line", ["hydra.job.env_copy=[NO_SUCH_VARIABLE]", "hydra.searchpath=3", "model=x"])
def test_whatever_hydra_stumbles_over_is_one_error(line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Composer(Flags()).compose([line], RunMode.RUN)
    assert len(caught.value.problems) == 1
    assert "\n" not in caught.value.problems[0]


def test_interpolations_are_resolved_in_plain_data() -> None:
    composed = Composer(Flags()).compose(["session_name=run_${seed}"], RunMode.RUN)
    del composed.hydra
    assert plain(composed)["session_name"] == "run_0"
