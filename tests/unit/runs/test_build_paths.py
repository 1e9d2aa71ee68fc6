"""Paths that cannot be used are refused by option, before anything is made."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.runs import small_config

from esper.config import TolariaConfig
from esper.runs import check_run
from esper.runs.path_checks import path_problems, unusable


def config(folder: Path, **options: str) -> TolariaConfig:
    made = small_config(**{"dataset__name": "fashion_mnist"} | options)
    return replace(made, run_dir=str(folder / "run"))


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("")
    return {
        "loop": str(tmp_path / "loop"),
        "in a loop": str(tmp_path / "loop" / "x"),
        "long": str(tmp_path / ("x" * 300)),
        "longest": str(tmp_path / "/".join(["x" * 200] * 30)),
        "null byte": f"{tmp_path}/a\0b",
        "file": str(tmp_path / "file"),
        "in a file": str(tmp_path / "file" / "x"),
    }


REASONS = {
    "loop": "Too many levels of symbolic links",
    "in a loop": "Too many levels of symbolic links",
    "long": "File name too long",
    "longest": "File name too long",
    "null byte": "embedded null byte",
}
KEYS = (
    "run_dir",
    "dataset.data_root",
    "checkpoint.checkpoint_dir",
    "checkpoint.model_save_path",
    "logging.log_file",
    "logging.metrics_file",
    "logging.tensorboard_log_dir",
    "trainer.profiler_dir",
)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("place", REASONS)
def test_a_path_that_cannot_be_looked_up_is_refused_by_its_option(
    tmp_path: Path, places: dict[str, str], key: str, place: str
) -> None:
    given = places[place]
    if key == "run_dir":
        made = replace(config(tmp_path), run_dir=given)
    else:
        made = config(tmp_path, **{key.replace(".", "__"): given})
    (found,) = path_problems(made)
    assert found.startswith(f"{key}: given ") and REASONS[place] in found


@pytest.mark.parametrize("key", KEYS[2:])
def test_what_is_written_cannot_be_put_below_a_file(tmp_path: Path, places: dict[str, str], key: str) -> None:
    (found,) = path_problems(config(tmp_path, **{key.replace(".", "__"): places["in a file"]}))
    assert found.startswith(f"{key}: given ") and f"{places['file']} is a file" in found


@pytest.mark.parametrize(
    ("key", "name"), [("logging.metrics_file", "pipe"), ("checkpoint.model_save_path", "pipe.safetensors")]
)
def test_a_device_or_pipe_is_not_replaced_by_a_file(tmp_path: Path, key: str, name: str) -> None:
    os.mkfifo(tmp_path / name)
    option = {key.replace(".", "__"): str(tmp_path / name)}
    (found,) = path_problems(config(tmp_path, **option))
    assert found.startswith(f"{key}: given ") and "a device or a pipe, which the file would replace" in found
    assert path_problems(config(tmp_path, logging__log_file=str(tmp_path / name))) == []


def test_what_is_usable_or_idle_is_not_refused(tmp_path: Path, places: dict[str, str]) -> None:
    assert path_problems(config(tmp_path)) == []
    assert path_problems(config(tmp_path, dataset__name="digits", dataset__data_root=places["loop"])) == []


def test_the_check_of_a_run_says_so_and_looks_no_further(tmp_path: Path, places: dict[str, str]) -> None:
    made = config(tmp_path, dataset__data_root=places["long"], checkpoint__checkpoint_dir=places["loop"])
    found = [text.partition(":")[0] for text in check_run(made)]
    assert sorted(found) == ["checkpoint.checkpoint_dir", "dataset.data_root"]


@pytest.mark.skipif(os.getuid() == 0, reason="root may enter every folder")
def test_a_folder_that_is_closed(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o000)
    assert unusable(tmp_path / "closed" / "x") == "Permission denied"
