"""What the tests share: two processes, the seven modules, a few real digits, and the skip of gpu tests."""

import ast
from concurrent.futures import ProcessPoolExecutor
import contextlib
import importlib
import logging
import multiprocessing
import os
from pathlib import Path
import signal

os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # this process shares the GPU with those that tests start

from common import data
from hypothesis import settings
import pytest

ROOT = Path(__file__).parent.parent

for number in (signal.SIGHUP, signal.SIGINT):
    if signal.getsignal(number) == signal.SIG_IGN:  # under nohup: children inherit an ignored signal, but no handler
        signal.signal(number, lambda *_: None)

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")

logging.getLogger("tensorflow").setLevel("ERROR")  # the tests retrace on purpose


def memory():
    """The bytes of memory that this machine, or its container, has."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError, ValueError):
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits)


def common_imports(path):
    """The modules of common that a file imports."""
    names = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"common.{alias.name}" for alias in node.names] if node.module == "common" else [node.module]
    return {name.removeprefix("common.") for name in names if name.startswith("common.")}


def in_process(function, *arguments):
    """What a function of a test module returns, or raises, in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Run all quick or all slow tests in two processes (pytest-xdist), a file in one of them, where they have 8 GB."""
    options = config.option
    if hasattr(config, "workerinput"):  # this is one of the two, which would start two more
        return
    whole = config.args_source.name == "TESTPATHS" and options.markexpr in ("not slow", "slow")
    everything = whole and not options.usepdb
    if everything and getattr(options, "numprocesses", 1) is None and os.cpu_count() > 1 and memory() > 7.5e9:
        options.numprocesses, options.dist = 2, "loadfile"


@pytest.fixture(autouse=True)
def device(request):
    """The CPU for all but the gpu tests, also on a box with a GPU: some compare bits."""
    from common.tensorflow import tf

    if not request.node.get_closest_marker("gpu"):
        with tf.device("/CPU:0"):
            yield
        return
    if not tf.config.list_physical_devices("GPU"):
        pytest.skip("no GPU that TensorFlow can use")
    yield


@pytest.fixture(scope="session")
def mnist():
    return data.load()


@pytest.fixture(scope="session")
def pixels(mnist):
    """Four real digits, [4, 227, 227, 1]."""
    from common.input import resize_tensorflow
    from common.tensorflow import tf

    with tf.device("/CPU:0"):
        return resize_tensorflow(mnist.train_images[:4])


@pytest.fixture(scope="session")
def seeds():
    """A pair of dropout seeds."""
    from common.tensorflow import tf

    return tf.constant([[1, 2], [3, 4]], tf.int64)


# The networks and initial values of 3 and 7 are those of 2, 6 and 1: test_all_but_the_subject_is_the_same_code.
SAME_CODE = 3, 7
MODULES = [pytest.param(n, marks=[pytest.mark.slow] * (n in SAME_CODE), id=f"alexnet{n}") for n in range(1, 8)]


@pytest.fixture(scope="module", params=MODULES)
def experiment(request):
    """Each of the seven modules in turn, with its number and a network of its own: (number, module, network)."""
    from common.tensorflow import tf

    module = importlib.import_module(f"alexnet{request.param}")
    tf.random.set_seed(0)
    with tf.device("/CPU:0"):
        return request.param, module, module.AlexNet()
