"""The shipped MNIST, the IDX parser and its errors, and the resize."""

import gzip
import struct

from common import data
from common.cli import UserError
from common.input import OpenCVInput, TensorFlowInput, resize_opencv, resize_tensorflow
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

IMAGES, LABELS = 2051, 2049


def idx(array):
    """The bytes of the IDX file of a uint8 array, [n, 28, 28] or [n]."""
    magic = IMAGES if array.ndim == 3 else LABELS
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path, mnist):
    """An MNIST-shaped set of 6 training and 4 test images, in a folder with a space and an umlaut."""
    folder = tmp_path / "Zäh len"
    folder.mkdir()
    arrays = (mnist.train_images[:6], mnist.train_labels[:6], mnist.test_images[:4], mnist.test_labels[:4])
    for number, (name, array) in enumerate(zip(data.FILES, arrays)):
        if number % 2:
            (folder / name).write_bytes(idx(array))
        else:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    return folder


def test_shipped_mnist_is_the_canonical_one(mnist):
    assert mnist.digest is None
    assert mnist.train_images.shape == (60000, 28, 28) and mnist.test_images.shape == (10000, 28, 28)
    assert np.bincount(mnist.train_labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(mnist.test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert (mnist.test_labels[:1000] == 0).sum() == 85


def test_another_data_set_is_read_and_has_a_digest(folder, mnist):
    loaded = data.load(folder)
    assert np.array_equal(loaded.train_images, mnist.train_images[:6])
    assert np.array_equal(loaded.test_labels, mnist.test_labels[:4])
    assert len(loaded.digest) == 8
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.array([1, 2, 3, 4])))
    assert data.load(folder).digest != loaded.digest


def test_dotted_names_are_read(folder):
    loaded = data.load(folder)
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.replace("-idx", ".idx"))
    assert data.load(folder).digest == loaded.digest


@pytest.mark.parametrize("beside", [False, True], ids=["folders", "folders beside files"])
def test_kaggle_s_folders_are_read(folder, beside):
    loaded = data.load(folder)
    for path in list(folder.iterdir()):
        content = path.read_bytes()
        path.unlink()
        (folder / path.name).mkdir()
        place = folder / path.name.replace("-idx", ".idx") if beside else folder / path.name / path.name
        place.write_bytes(content)
    assert data.load(folder).digest == loaded.digest


def test_a_gz_that_a_browser_unpacked_is_read(folder):
    loaded = data.load(folder)
    for path in folder.glob("*.gz"):
        path.write_bytes(gzip.decompress(path.read_bytes()))
    assert data.load(folder).digest == loaded.digest


def test_mnist_in_another_folder_is_still_mnist(tmp_path):
    for path in data.SHIPPED.glob("*.gz"):
        (tmp_path / path.name).symlink_to(path)
    assert data.load(tmp_path).digest is None


def test_a_changed_shipped_file_is_found(tmp_path, monkeypatch, mnist):
    monkeypatch.setattr(data, "SHIPPED", tmp_path)
    arrays = (mnist.train_images, mnist.train_labels, mnist.test_images, mnist.test_labels[::-1])
    for name, array in zip(data.FILES, arrays):
        (tmp_path / name).write_bytes(idx(array))
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte.*not the MNIST that was shipped"):
        data.load()


def damage_missing(path):
    path.unlink()


def damage_directory(path):
    path.unlink()
    path.mkdir()


def damage_cut(path):
    path.write_bytes(path.read_bytes()[:-20])


DAMAGE = {
    "missing": (damage_missing, "no such file"),
    "directory": (damage_directory, "directory"),
    "empty": (lambda path: path.write_bytes(b""), "damaged gzip|too short"),
    "truncated": (damage_cut, "damaged gzip"),
    "not gzip": (lambda path: path.write_bytes(b"plain"), "too short for an IDX header"),
    "corrupt": (lambda path: path.write_bytes(path.read_bytes()[:30] + b"\xff" * 30), "damaged gzip"),
    "magic": (lambda path: path.write_bytes(gzip.compress(struct.pack(">4I", 2052, 1, 28, 28))), "magic number 2052"),
    "count": (lambda path: path.write_bytes(gzip.compress(idx(np.zeros((6, 28, 28)))[:-1])), "asks for"),
    "size": (lambda path: path.write_bytes(gzip.compress(idx(np.zeros((6, 27, 28))))), "27x28"),
    "none": (lambda path: path.write_bytes(gzip.compress(idx(np.zeros((0, 28, 28))))), "0 items"),
    "pairs": (lambda path: path.write_bytes(gzip.compress(idx(np.zeros((5, 28, 28))))), "5 images but 6 labels"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_images_are_one_line_that_names_the_file(folder, kind):
    damage, message = DAMAGE[kind]
    damage(folder / "train-images-idx3-ubyte.gz")
    with pytest.raises(UserError, match=message) as error:
        data.load(folder)
    assert str(folder) in str(error.value) and "train" in str(error.value) and "\n" not in str(error.value)


def test_an_unreadable_file_is_named(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(data.Path, "read_bytes", refuse)
    with pytest.raises(UserError, match="train-images-idx3-ubyte.gz: Permission denied; replace it"):
        data.load(folder)


def test_a_label_above_nine_is_refused(folder):
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.array([0, 1, 2, 3, 4, 10])))
    with pytest.raises(UserError, match="label 10"):
        data.load(folder)


@given(st.sampled_from([IMAGES, LABELS]), st.binary(max_size=2000))
def test_any_bytes_parse_or_are_refused(magic, content):
    assert_parsed_or_refused(content, magic)


@given(
    st.sampled_from([IMAGES, LABELS]),
    st.lists(st.integers(0, 2**32 - 1) | st.sampled_from([IMAGES, LABELS, 0, 1, 2, 28]), min_size=2, max_size=4),
    st.binary(max_size=1600),
)
def test_any_header_parses_or_is_refused(magic, header, body):
    assert_parsed_or_refused(struct.pack(f">{len(header)}I", *header) + body, magic)


def assert_parsed_or_refused(content, magic):
    try:
        array = data.parse_idx(content, magic, "x")
    except UserError:
        return
    assert array.dtype == np.uint8 and len(array) > 0
    assert array.shape[1:] == ((28, 28) if magic == IMAGES else ())
    assert idx(array) == content
    assert magic == IMAGES or array.max() <= 9


def test_resize_equals_opencv(mnist):
    digits = mnist.test_images[:200]
    ours, reference = resize_tensorflow(digits).numpy(), resize_opencv(digits)
    assert ours.shape == reference.shape == (200, 227, 227, 1) and reference.dtype == np.float32
    assert np.abs(ours - reference).max() <= 1e-5
    assert reference.min() >= 0 and reference.max() == 1


@pytest.mark.gpu
def test_resize_equals_opencv_on_the_gpu(mnist):
    import tensorflow as tf

    with tf.device("/GPU:0"):
        ours = resize_tensorflow(mnist.test_images[:200])
    assert np.abs(ours.numpy() - resize_opencv(mnist.test_images[:200])).max() <= 1e-5


@pytest.mark.gpu
def test_opencv_s_batches_come_from_the_cpu_in_a_gpu_s_scope(mnist):
    import tensorflow as tf

    source = OpenCVInput(mnist.train_images[:4], mnist.train_labels[:4])
    with tf.device("/GPU:0"):
        (batch,) = source.batches(np.array([[3, 1]], np.int32))
    assert batch[1].numpy().tolist() == mnist.train_labels[[3, 1]].tolist()


def test_both_inputs_give_the_same_batches_in_the_same_order(mnist):
    order = np.array([[3, 1], [0, 7], [2, 5]], np.int32)
    both = []
    for make in (TensorFlowInput, OpenCVInput):
        source = make(mnist.train_images[:8], mnist.train_labels[:8])
        both.append([source.load(batch) for batch in source.batches(order)])
    assert len(both[0]) == 3
    for indices, (ours, our_labels), (reference, labels) in zip(order, *both):
        np.testing.assert_allclose(ours, reference, atol=1e-5)
        assert our_labels.numpy().tolist() == labels.numpy().tolist() == mnist.train_labels[indices].tolist()
