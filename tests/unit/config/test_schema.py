"""The names and defaults of the options are an interface: what is written here does not change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import esper
from esper.config import TolariaConfig
from esper.config.serialization import option_names

OPTIONS = Path(__file__).with_name("options.txt")


def test_the_names_of_all_options_are_frozen() -> None:
    """A name that is added, removed or renamed has to be written into options.txt, and into the changelog."""
    assert list(option_names(TolariaConfig)) == OPTIONS.read_text().split()


def test_a_checkpoint_cannot_allow_itself_targets() -> None:
    """`allowed_targets` extends the list, but not from a checkpoint's config."""
    saved = TolariaConfig(allowed_targets=["evil"]).to_dict()
    assert TolariaConfig.from_checkpoint(saved).allowed_targets == []
    assert TolariaConfig.from_checkpoint(saved, ["mine"]).allowed_targets == ["mine"]


def test_the_configuration_loads_without_torch() -> None:
    """Reading or checking a configuration does not import torch."""
    code = (
        "import sys; import esper; from esper.config import TolariaConfig; TolariaConfig().validate();"
        "print(esper.__version__, sorted(m for m in ('torch', 'numpy', 'hydra') if m in sys.modules))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(esper.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.split(maxsplit=1)[1].strip() == "[]"


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    assert not hasattr(esper, "nothing")
    assert esper.TolariaConfig is TolariaConfig
    assert set(esper.__all__) <= set(dir(esper))
