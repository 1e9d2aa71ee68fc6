"""What an installed wheel holds. Building one takes some seconds."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, laid out as an installer would."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = (folder / "dist").glob("esper-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_a_wheel_finds_its_own_configuration_from_any_folder(unpacked: Path, tmp_path: Path) -> None:
    """The folder conf/ travels in the wheel as esper/conf, and is the one that is read."""
    recipe = unpacked / "esper" / "conf" / "recipe" / "digits.yaml"
    recipe.write_text(recipe.read_text().replace("max_epochs: 30", "max_epochs: 29"))
    done = subprocess.run(
        [sys.executable, "-m", "esper.train", "--cfg", "job"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "max_epochs: 29" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_wheel_names_its_command_and_its_licence(unpacked: Path) -> None:
    (info,) = unpacked.glob("esper-*.dist-info")
    assert "esper-train = esper.entry:train" in (info / "entry_points.txt").read_text()
    assert "MIT" in (info / "METADATA").read_text()


def test_a_wheel_says_that_it_is_typed(unpacked: Path) -> None:
    """Without py.typed mypy ignores the annotations of an installed package."""
    assert (unpacked / "esper" / "py.typed").is_file()
