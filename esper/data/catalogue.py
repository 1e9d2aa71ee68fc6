"""Metadata of the named datasets: shapes, files, addresses, hashes, default augmentation. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from esper.data.params import Augmentation


@dataclass(frozen=True, slots=True)
class DataInfo:
    """What a model must fit. A field is None where it is unknown until the dataset is opened, or always.

    Args:
        name: `dataset.name`.
        num_classes: number of classes.
        channels: channels of an image.
        image_size: (height, width) in pixels.
        input_shape: shape of one input, without the batch.
        official_test: whether the dataset has a separate test set, which is not split off the training set.
        dtype: torch's name of the dtype of the inputs in a batch, such as "float32".

    Example:
        >>> DIGITS.input_shape
        (1, 8, 8)
    """

    name: str
    num_classes: int | None
    channels: int | None
    image_size: tuple[int, int] | None
    input_shape: tuple[int, ...] | None
    official_test: bool
    dtype: str | None = None


def image_info(
    name: str, num_classes: int, channels: int, size: tuple[int, int], *, official_test: bool
) -> DataInfo:
    """Return the `DataInfo` of an image set; `size` is (height, width)."""
    return DataInfo(name, num_classes, channels, size, (channels, *size), official_test)


@dataclass(frozen=True, slots=True)
class FileSet:
    """A dataset in files of a known format.

    Args:
        info: what a model must fit.
        folders: searched in this order, relative to `data_root` unless absolute; the first one is where a
            download is stored.
        files: names of the files in such a folder.
        base_url: address of the downloads.
        downloads: names at that address to official MD5 hashes.
        archive_folder: folder inside the archive, for a set that is one archive.
        label_bytes: label bytes before each record of a CIFAR file.
        hint: another way to get the files.
    """

    info: DataInfo
    folders: tuple[str, ...]
    files: tuple[str, ...]
    base_url: str
    downloads: Mapping[str, str]
    archive_folder: str = ""
    label_bytes: int = 0
    hint: str = ""

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def archive(self) -> str:
        """Name of the archive that holds all files; empty where they are downloaded one by one."""
        return next(iter(self.downloads)) if self.archive_folder else ""


IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _idx(
    name: str, folders: tuple[str, ...], base_url: str, hashes: tuple[str, ...], hint: str = ""
) -> FileSet:
    downloads = {f"{file}.gz": md5 for file, md5 in zip(IDX_FILES, hashes, strict=True)}
    info = image_info(name, 10, 1, (28, 28), official_test=True)
    return FileSet(info, folders, IDX_FILES, base_url, MappingProxyType(downloads), hint=hint)


def _cifar(name: str, classes: int, folder: str, files: tuple[str, ...], archive: str, md5: str) -> FileSet:
    return FileSet(
        info=image_info(name, classes, 3, (32, 32), official_test=True),
        folders=(f"{name}/{folder}", name, folder, "."),
        files=files,
        base_url="https://www.cs.toronto.edu/~kriz/",
        downloads=MappingProxyType({archive: md5}),
        archive_folder=folder,
        label_bytes=1 if classes == 10 else 2,
    )


FILE_SETS: Mapping[str, FileSet] = MappingProxyType(
    {
        "cifar10": _cifar(
            "cifar10",
            10,
            "cifar-10-batches-bin",
            (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"),
            "cifar-10-binary.tar.gz",
            "c32a1d4ab5d03f1284b67883e8d87530",
        ),
        "cifar100": _cifar(
            "cifar100",
            100,
            "cifar-100-binary",
            ("train.bin", "test.bin"),
            "cifar-100-binary.tar.gz",
            "03b5dce01913d631647c71ecec9e9cb8",
        ),
        "fashion_mnist": _idx(
            "fashion_mnist",
            # data_root itself comes last: the files of MNIST have the same names
            ("fashion_mnist", "FashionMNIST/raw", "/usr/share/datasets/fashion-mnist", "."),
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            (
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "25c81989df183df01b3e8a0aad5dffbe",
                "bef4ecab320f06d8554ea6380940ec79",
                "bb300cfdad3c16e7a12a480ee83cd310",
            ),
            hint="install Debian's package dataset-fashion-mnist",
        ),
        "mnist": _idx(
            "mnist",
            ("mnist", "MNIST/raw", "."),
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            (
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "d53e105ee54ea40749a09fcbcd1e9432",
                "9fb629c4189551a2d022fa330f9573f3",
                "ec29112dd5afa0611ce80d1b7f02629c",
            ),
        ),
    }
)

DIGITS = image_info("digits", 10, 1, (8, 8), official_test=False)

DATASETS = ("cifar10", "cifar100", "digits", "fashion_mnist", "image_folder", "mnist", "synthetic")


# Augmentation of training images unless `augmentation_params` overrides it. Digits are not mirrored, because
# a mirrored digit is no digit.
DEFAULT_AUGMENTATIONS: Mapping[str, Augmentation] = MappingProxyType(
    {
        "cifar10": Augmentation(crop_padding=4, horizontal_flip=0.5),
        "cifar100": Augmentation(crop_padding=4, horizontal_flip=0.5),
        "digits": Augmentation(crop_padding=1),
        "fashion_mnist": Augmentation(crop_padding=2, horizontal_flip=0.5),
        "image_folder": Augmentation(crop_padding=4, horizontal_flip=0.5),
        "mnist": Augmentation(crop_padding=2),
        "synthetic": Augmentation(),
    }
)
