from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from helpers.datasets import write_image_folder
from PIL import Image

from esper.data.image_folder import (
    FolderDataset,
    check_readable,
    decode,
    decode_all,
    fits_in_memory,
    folder_info,
    list_folder,
)
from esper.data.params import FolderParams
from esper.errors import DataError

SMALL = FolderParams(image_size=(8, 10))


def test_one_tree_has_its_folders_as_classes(tmp_path: Path) -> None:
    write_image_folder(tmp_path, classes=3, per_class=4)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "class0" / "notes.txt").write_text("not an image")
    info = folder_info(tmp_path, SMALL)
    assert (info.num_classes, info.channels, info.image_size, info.official_test) == (3, 3, (8, 10), False)
    files = list_folder(tmp_path)
    assert list(files) == ["train"]
    assert list(files["train"].labels) == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize("validation", ["val", "validation", "valid"])
def test_folders_for_the_parts_are_used_as_they_are(tmp_path: Path, validation: str) -> None:
    for part, count in (("train", 4), (validation, 2), ("test", 3)):
        write_image_folder(tmp_path / part, per_class=count)
    assert folder_info(tmp_path, SMALL).official_test
    assert {part: len(files.paths) for part, files in list_folder(tmp_path).items()} == {
        "train": 12,
        "validation": 6,
        "test": 9,
    }


def test_images_are_cropped_to_the_asked_shape_and_colour(tmp_path: Path) -> None:
    write_image_folder(tmp_path, classes=2, per_class=1)
    path = tmp_path / "class1" / "0.png"
    colour = decode(path, SMALL)
    assert colour.shape == (3, 8, 10) and colour.dtype == np.uint8
    assert colour[1].min() > max(colour[0].max(), colour[2].max()), "class 1 is green"
    assert decode(path, FolderParams(image_size=8, channels=1)).shape == (1, 8, 8)


def test_decoding_all_keeps_the_order_whatever_the_threads(tmp_path: Path) -> None:
    files = list_folder(write_image_folder(tmp_path))["train"]
    one, three = (decode_all(files, SMALL, threads) for threads in (0, 3))
    assert np.array_equal(one, three)
    dataset = FolderDataset(files, SMALL)
    assert len(dataset) == len(one)
    assert np.array_equal(dataset[5][0], one[5]) and dataset[23][1] == 2


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    write_image_folder(tmp_path)
    (tmp_path / "class1" / "3.png").write_bytes(b"not a png")
    with pytest.raises(DataError, match=r"class1/3\.png cannot be read as an image"):
        decode_all(list_folder(tmp_path)["train"], SMALL, 2)


def test_a_cut_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"a\.png cannot be read"):
        decode(path, SMALL)


def broken_files(folder: Path) -> dict[str, str]:
    """Files of every kind that cannot be read, each with the reason that is given for it."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    for suffix in ("png", "jpg", "gif", "bmp", "tif", "ppm", "webp"):
        path = folder / f"cut.{suffix}"
        Image.fromarray(pixels).save(path)
        path.write_bytes(path.read_bytes()[:-400])
    (folder / "empty.png").write_bytes(b"")
    (folder / "page.png").write_bytes(b"<html>404</html>")
    (folder / "lost.png").symlink_to(folder / "nowhere.png")
    # a header that promises 30000 x 30000 pixels
    (folder / "bomb.pgm").write_bytes(b"P5 30000 30000 255\n0")
    os.mkfifo(folder / "pipe.png")
    return {
        **{f"cut.{suffix}": "" for suffix in ("png", "jpg", "gif", "bmp", "tif", "ppm", "webp")},
        "empty.png": "the file is empty",
        "page.png": "its content is no known image format",
        "lost.png": "it is a link to a file that is missing",
        "bomb.pgm": "it has more than 178,956,970 pixels; scale it down",
        "pipe.png": "it is no regular file",
    }


def test_every_broken_file_is_named_with_a_reason(tmp_path: Path) -> None:
    for name, reason in broken_files(tmp_path).items():
        path = tmp_path / name
        with pytest.raises(DataError) as caught:
            decode(path, SMALL)
        text = str(caught.value)
        assert text.startswith(f"{path} cannot be read as an image: {reason}") and "\n" not in text
        assert len(text) > len(f"{path} cannot be read as an image: ")


def test_files_that_are_read_as_needed_are_all_decoded_before_training(tmp_path: Path) -> None:
    files = list_folder(write_image_folder(tmp_path, classes=2, per_class=30))["train"]
    check_readable(files, SMALL, 2)
    last = files.paths[-1]
    last.write_bytes(last.read_bytes()[:-30])
    with pytest.raises(DataError, match=f"{last} cannot be read as an image"):
        check_readable(files, SMALL, 2)


def test_of_many_bytes_only_the_headers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esper.data.image_folder.CHECKED_BYTES", 100)
    files = list_folder(write_image_folder(tmp_path, classes=2, per_class=3))["train"]
    files.paths[0].write_bytes(files.paths[0].read_bytes()[:-30])
    check_readable(files, SMALL, 2)  # cut short: found when it is read
    Image.new("I", (4, 4)).save(files.paths[1], "TIFF")
    with pytest.raises(DataError, match=f"{files.paths[1]} cannot be read as an image: signed whole numbers"):
        check_readable(files, SMALL, 2)
    files.paths[1].write_bytes(b"")
    with pytest.raises(DataError, match=f"{files.paths[1]} cannot be read as an image: the file is empty"):
        check_readable(files, SMALL, 2)


def test_hidden_files_and_folders_change_nothing(tmp_path: Path) -> None:
    write_image_folder(tmp_path, classes=2, per_class=4)
    before = list_folder(tmp_path)["train"].paths
    for name in (".DS_Store", "class0/.DS_Store", "class0/._0.png", "class1/Thumbs.db"):
        (tmp_path / name).write_bytes(b"not an image")
    for name in (".ipynb_checkpoints", "class0/.ipynb_checkpoints", "__MACOSX", "__MACOSX/class0", ".Trash"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(b"not an image")
    assert folder_info(tmp_path, SMALL).num_classes == 2
    assert list_folder(tmp_path)["train"].paths == before


def test_what_is_wrong_with_a_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere, which is not a folder; dataset\.data_root names"):
        folder_info(tmp_path / "nowhere", SMALL)
    with pytest.raises(DataError, match="two classes or more; found: none"):
        folder_info(tmp_path, SMALL)
    (tmp_path / "cats").mkdir()
    with pytest.raises(DataError, match="found: cats"):
        folder_info(tmp_path, SMALL)
    (tmp_path / "dogs").mkdir()
    with pytest.raises(DataError, match=r"holds no image; known suffixes: \.bmp"):
        list_folder(tmp_path)


def test_a_class_without_an_image_is_named(tmp_path: Path) -> None:
    write_image_folder(tmp_path, classes=2)
    (tmp_path / "drafts").mkdir()
    with pytest.raises(DataError, match="has classes without an image: drafts"):
        list_folder(tmp_path)


def test_a_class_that_only_the_test_set_has_is_named(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "train", classes=2)
    write_image_folder(tmp_path / "test", classes=3)
    with pytest.raises(DataError, match="classes that train lacks: class2; known: class0, class1"):
        list_folder(tmp_path)


def test_small_folders_are_on_the_device_unless_configured_otherwise() -> None:
    assert fits_in_memory(1000, FolderParams(image_size=64))
    assert not fits_in_memory(100_000, FolderParams(image_size=64))
    assert fits_in_memory(10**9, FolderParams(in_memory=True))
    assert not fits_in_memory(1, FolderParams(in_memory=False))
