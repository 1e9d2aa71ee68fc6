from __future__ import annotations

from pathlib import Path

import pytest

from esper.data.image_tree import image_files, subfolders
from esper.errors import DataError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def names_in(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in image_files(folder)]


HIDDEN = [
    ".DS_Store",
    "._a.png",
    ".hidden.jpg",
    "Thumbs.db",
    ".ipynb_checkpoints/a-checkpoint.png",
    "deep/.cache/a.png",
    "__MACOSX/a.png",
    "deep/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg",
    "notes.txt",
]


@pytest.mark.parametrize("name", HIDDEN)
def test_a_hidden_file_is_never_listed(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name, "a.png", "deep/b.JPEG")
    assert names_in(tmp_path) == ["a.png", "deep/b.JPEG"]


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    touch(tmp_path, ".git/a.png", "__MACOSX/a.png", ".ipynb_checkpoints/a.png", "cats/a.png", "dogs/a.png")
    assert subfolders(tmp_path) == ["cats", "dogs"]


def test_a_hidden_folder_above_the_images_hides_nothing(tmp_path: Path) -> None:
    root = tmp_path / ".cache" / "__MACOSX"
    touch(root, "cats/a.png")
    assert subfolders(root) == ["cats"]
    assert names_in(root / "cats") == ["a.png"]


def test_a_folder_with_the_name_of_an_image_is_looked_into(tmp_path: Path) -> None:
    touch(tmp_path, "a.png/b.png", "c.png")
    assert names_in(tmp_path) == ["a.png/b.png", "c.png"]


def test_a_loop_of_links_adds_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "cats/a.png", "cats/deep/b.png", "dogs/a.png")
    (tmp_path / "cats" / "deep" / "up").symlink_to(tmp_path / "cats")
    (tmp_path / "cats" / "self").symlink_to("self")
    (tmp_path / "cats" / "root").symlink_to("..")
    (tmp_path / "again").symlink_to(tmp_path)
    assert names_in(tmp_path / "cats") == ["a.png", "deep/b.png"]
    assert subfolders(tmp_path) == ["cats", "dogs"]


def test_links_are_followed(tmp_path: Path) -> None:
    touch(tmp_path / "store", "a.png", "b.png")
    root = tmp_path / "root"
    (root / "cats").mkdir(parents=True)
    (root / "dogs").symlink_to(tmp_path / "store")
    (root / "cats" / "more").symlink_to(tmp_path / "store")
    (root / "cats" / "lost.png").symlink_to(tmp_path / "nowhere.png")
    assert subfolders(root) == ["cats", "dogs"]
    assert names_in(root / "dogs") == ["a.png", "b.png"]
    assert names_in(root / "cats") == ["lost.png", "more/a.png", "more/b.png"], "lost is shown"


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere cannot be read: No such file or directory"):
        image_files(tmp_path / "nowhere")
