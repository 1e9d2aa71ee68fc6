"""`conf/` and docs/configuration.md say what the schema says; `scripts/config_docs.py` writes them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from esper.cli.composer import Composer
from esper.cli.flags import Flags
from esper.config import TolariaConfig
from esper.config.serialization import option_names

ROOT = Path(__file__).parents[3]
COMPOSED = Path(__file__).with_name("composed.yaml")
GENERATED = ("checkpoint", "logging", "optimization", "services", "trainer")


def compose(*overrides: str) -> DictConfig:
    composed = Composer(Flags()).compose(overrides, RunMode.RUN)
    del composed.hydra
    return composed


def config_docs(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "scripts" / "config_docs.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_what_is_generated_is_up_to_date() -> None:
    """Where this fails: `.venv/bin/python scripts/config_docs.py` writes the files anew."""
    done = config_docs(ROOT, "--check")
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_a_file_that_differs_is_named_with_the_command_that_writes_it(tmp_path: Path) -> None:
    """In a copy of the tree: what the schema says wins over what is in the files."""
    (tmp_path / "scripts").mkdir()
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "scripts" / "config_docs.py", tmp_path / "scripts")
    trainer = tmp_path / "conf" / "trainer" / "default.yaml"
    right = trainer.read_text()
    trainer.write_text(right.replace("max_rollbacks: 3", "max_rollbacks: 4"))
    done = config_docs(tmp_path, "--check")
    assert (done.returncode, done.stdout) == (
        1,
        "conf/trainer/default.yaml differs from esper/config; run .venv/bin/python scripts/config_docs.py\n",
    )
    assert config_docs(tmp_path).returncode == 0
    assert trainer.read_text() == right


def test_what_the_command_runs_without_arguments_is_an_interface() -> None:
    """A default that changes has to be written into composed.yaml, and into the changelog."""
    assert OmegaConf.to_yaml(compose()) == COMPOSED.read_text()


@pytest.mark.parametrize("choice", ["dataset=fashion_mnist", "debug=overfit", "experiment=strict"])
def test_the_defaults_of_a_group_override_no_other_choice(choice: str) -> None:
    """They are what the library has: with the groups left empty the same is composed."""
    assert compose(choice) == compose(choice, *(f"{group}=null" for group in GENERATED))


def test_every_option_is_in_the_document() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    sections = {part.partition("\n")[0]: part for part in text.split("\n## ")}
    missing = []
    for key in option_names(TolariaConfig):
        group, _, name = key.rpartition(".")
        if f"| `{name}` |" not in sections[group or "Options of no group"]:
            missing.append(key)
    assert missing == []
    assert "| `adamw` | `torch.optim.AdamW` |" in sections["optimization"]
    assert "| `heuristic` | `esper.tamiyo.HeuristicPolicy` |" in sections["morphogenetic"]
