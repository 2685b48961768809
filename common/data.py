"""MNIST from the four IDX files that this repository ships, or from any other set of the same shape."""

import gzip
import hashlib
from pathlib import Path
from typing import NamedTuple
import zlib

from common.cli import UserError
import numpy as np

SHIPPED = Path(__file__).parent / "mnist"
# name: (magic number, SHA-256 of the uncompressed IDX file)
FILES = {
    "train-images-idx3-ubyte": (2051, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    "train-labels-idx1-ubyte": (2049, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    "t10k-images-idx3-ubyte": (2051, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    "t10k-labels-idx1-ubyte": (2049, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
}


class Dataset(NamedTuple):
    """Images [n, 28, 28] and labels [n], all uint8; digest is None for the shipped MNIST, else 8 hex digits."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    digest: str | None


def parse_idx(content, magic, path):
    """The array in the bytes of an IDX file: [n, 28, 28] for images (magic 2051), [n] for labels (magic 2049).

    Raises UserError, naming path, for anything but at least one 28x28 image or one label from 0 to 9.
    """

    def bad(what):
        return UserError(f"{path}: {what}; replace it by an MNIST-shaped IDX file")

    header = 16 if magic == 2051 else 8
    if len(content) < header:
        raise bad(f"{len(content)} bytes, too short for an IDX header of {header}")
    found, count, *size = (int(n) for n in np.frombuffer(content, ">u4", header // 4))
    if found != magic:
        raise bad(f"magic number {found} instead of {magic}")
    if size not in ([], [28, 28]):
        raise bad(f"images of {size[0]}x{size[1]} instead of 28x28")
    expected = header + count * int(np.prod(size, dtype=int))
    if not count or len(content) != expected:
        raise bad(f"{len(content)} bytes where its header, for {count} items, asks for {expected}")
    array = np.frombuffer(content, np.uint8, offset=header).reshape(count, *size)
    if not size and array.max() > 9:
        raise bad(f"label {array.max()}, above 9")
    return array


def read_idx(directory, name):
    """Read directory/name, or name.idx..., with or without .gz; returns (array, SHA-256 of the uncompressed file).

    Each may also lie in a folder of one of these names, as in Kaggle's copy.
    """
    names = [f"{each}{end}" for each in (name, name.replace("-idx", ".idx")) for end in (".gz", "")]
    places = [directory / each for each in names] + [directory / outer / each for outer in names for each in names]
    paths = sorted(filter(Path.exists, places), key=Path.is_dir)
    if not paths:
        raise UserError(
            f"{directory / name}.gz: no such file, nor one without .gz; name a folder with it by --data-dir"
        )
    path = paths[0]
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):  # judged by content: browsers unpack a .gz and keep its name
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or f"damaged gzip file ({error})"
        raise UserError(f"{path}: {reason}; replace it by an MNIST-shaped IDX file") from None
    return parse_idx(content, FILES[name][0], path), hashlib.sha256(content).hexdigest()


def load(directory=None):
    """Load the shipped MNIST, checked by SHA-256, or the MNIST-shaped set in directory, as a Dataset.

    Raises UserError for a file that is missing, unreadable, damaged or not MNIST-shaped.
    """
    folder = Path(directory) if directory is not None else SHIPPED
    arrays, digests = zip(*(read_idx(folder, name) for name in FILES))
    for part, images, labels in ("train", *arrays[:2]), ("t10k", *arrays[2:]):
        if len(images) != len(labels):
            raise UserError(
                f"{folder / part}-*: {len(images)} images but {len(labels)} labels; take both from the same set"
            )
    shipped = tuple(digest for _, digest in FILES.values())
    if digests == shipped:
        return Dataset(*arrays, digest=None)
    if directory is None:
        wrong = [name for name, digest, right in zip(FILES, digests, shipped) if digest != right]
        raise UserError(f"{folder / wrong[0]}.gz: not the MNIST that was shipped; git checkout -- common/mnist")
    return Dataset(*arrays, digest=hashlib.sha256("".join(digests).encode()).hexdigest()[:8])


def select(dataset, train_size, test_size, batch_size):
    """The dataset cut to its first images, all if a size is None; UserError if the sizes do not fit it or the batch."""
    for flag, size, most in (
        ("--train-size", train_size, len(dataset.train_labels)),
        ("--test-size", test_size, len(dataset.test_labels)),
    ):
        if size is not None and size > most:
            raise UserError(f"{flag} {size}: the data set has {most} images; lower it")
    dataset = dataset._replace(
        train_images=dataset.train_images[:train_size],
        train_labels=dataset.train_labels[:train_size],
        test_images=dataset.test_images[:test_size],
        test_labels=dataset.test_labels[:test_size],
    )
    if len(dataset.train_labels) < batch_size:
        raise UserError(
            f"--batch-size {batch_size}: there are {len(dataset.train_labels)} training images; "
            "lower it or raise --train-size"
        )
    return dataset
