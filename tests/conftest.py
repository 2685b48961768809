"""What the tests share: the seven modules, a few real digits, and the skip of gpu tests."""

import importlib
from pathlib import Path

from common import data
from common.input import resize_tensorflow
from common.session import tf
import pytest

ROOT = Path(__file__).parent.parent


tf.get_logger().setLevel("ERROR")  # the tests retrace on purpose


@pytest.fixture(autouse=True)
def gpu_only(request):
    if request.node.get_closest_marker("gpu") and not tf.config.list_physical_devices("GPU"):
        pytest.skip("no GPU that TensorFlow can use")


@pytest.fixture(scope="session")
def mnist():
    return data.load()


@pytest.fixture(scope="session")
def pixels(mnist):
    """Four real digits, [4, 227, 227, 1]."""
    return resize_tensorflow(mnist.train_images[:4])


@pytest.fixture(scope="session")
def seeds():
    """A pair of dropout seeds."""
    return tf.constant([[1, 2], [3, 4]], tf.int64)


@pytest.fixture(scope="module", params=range(1, 8), ids=lambda n: f"alexnet{n}")
def experiment(request):
    """Each of the seven modules in turn, with its number and a network of its own: (number, module, network)."""
    module = importlib.import_module(f"alexnet{request.param}")
    tf.random.set_seed(0)
    return request.param, module, module.AlexNet()
