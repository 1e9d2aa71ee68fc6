"""`conf/` and docs/configuration.md say what the schema says; `scripts/config_docs.py` writes them."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

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


def keys(data: Any) -> list[Any]:
    """The names in a group, those of an inner group beside its own name."""
    return [(name, keys(value)) if name == "seed" else name for name, value in data.items()]


def compose(*overrides: str) -> DictConfig:
    composed = Composer(Flags()).compose(overrides, RunMode.RUN)
    del composed.hydra
    return composed


@pytest.fixture(scope="module")
def config_docs() -> ModuleType:
    spec = spec_from_file_location("config_docs", ROOT / "scripts" / "config_docs.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_generated_is_up_to_date(config_docs: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """Where this fails: `.venv/bin/python scripts/config_docs.py` writes the files anew."""
    assert (config_docs.main(["--check"]), capsys.readouterr().out) == (0, "")


def test_a_file_that_differs_is_named_with_the_command_and_written_anew(
    config_docs: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "docs").mkdir()
    shutil.copy(config_docs.DOCUMENT, tmp_path / "docs")
    trainer = tmp_path / "conf" / "trainer" / "default.yaml"
    right = trainer.read_text()
    trainer.write_text(right.replace("max_rollbacks: 3", "max_rollbacks: 4"))
    for name, path in (("ROOT", "."), ("CONF", "conf"), ("DOCUMENT", "docs/configuration.md")):
        monkeypatch.setattr(config_docs, name, tmp_path / path)
    assert config_docs.main(["--check"]) == 1
    command = ".venv/bin/python scripts/config_docs.py"
    assert capsys.readouterr().out == f"conf/trainer/default.yaml differs from esper/config; run {command}\n"
    assert config_docs.main([]) == 0
    assert trainer.read_text() == right


def test_what_the_command_runs_without_arguments_is_an_interface() -> None:
    """A default that changes has to be written into composed.yaml, and into the changelog."""
    assert OmegaConf.to_yaml(compose()) == COMPOSED.read_text()


@pytest.mark.parametrize("choice", ["dataset=fashion_mnist", "debug=overfit", "experiment=strict"])
def test_the_defaults_of_a_group_override_no_other_choice(choice: str) -> None:
    """They are what the library has: with the groups left empty the same is composed."""
    assert compose(choice) == compose(choice, *(f"~{group}" for group in GENERATED))


@pytest.mark.parametrize("group", [*GENERATED, "morphogenetic"])
def test_the_yaml_of_a_group_has_every_option(group: str) -> None:
    """But the policy, which is chosen by a group of its own."""
    loaded = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / group / "default.yaml"))
    options = asdict(getattr(TolariaConfig(), group))
    options.pop("policy", None)
    assert keys(loaded) == keys(options)


def test_every_option_is_in_the_document() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    sections = {part.partition("\n")[0]: part for part in text.split("\n## ")}
    missing = []
    for key in option_names(TolariaConfig):
        group, _, name = key.rpartition(".")
        if f"| `{name}` |" not in sections[group or "Top level"]:
            missing.append(key)
    assert missing == []
    assert "| Folder of the run; null: `outputs/<date>/<time>`. |" in sections["Top level"]
    assert "| `adamw` | `torch.optim.AdamW` |" in sections["optimization"]
    assert "| `heuristic` | `esper.tamiyo.HeuristicPolicy` |" in sections["morphogenetic"]
