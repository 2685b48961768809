"""The seven scripts compute what the article's graph-mode code computes, and a mistake in one of them is caught."""

import functools
import importlib

from common import arguments, data
from common.data import select
from common.input import resize_opencv, resize_tensorflow
from common.step import dropout_seeds
from common.tensorflow import tf
from common.training import State, Training
import numpy as np
import pytest

from tests import parity, reference
from tests.parity import MISTAKES, Pair, Setting, dropout_masks, is_nan, settings, worst

EXPERIMENTS = range(1, 8)


@pytest.fixture(scope="module", autouse=True)
def full_float32():
    """TF32 off, and no warnings on how many functions these tests compile."""
    kept, level = tf.config.experimental.tensor_float_32_execution_enabled(), tf.get_logger().level
    tf.config.experimental.enable_tensor_float_32_execution(False)
    tf.get_logger().setLevel("ERROR")
    yield
    tf.config.experimental.enable_tensor_float_32_execution(kept)
    tf.get_logger().setLevel(level)


class OnePair:
    """The script and the reference of one experiment: an earlier one is freed before the next is built."""

    pair = None

    @classmethod
    def of(cls, experiment):
        if cls.pair is None or cls.pair.experiment != experiment:
            cls.close()
            cls.pair = Pair(experiment)
        return cls.pair

    @classmethod
    def close(cls):
        if cls.pair is not None:
            cls.pair.close()
            cls.pair = None


@pytest.fixture(scope="module", autouse=True)
def closed():
    yield
    OnePair.close()


def check_variables(pair):
    ours, theirs = pair.script.variables, pair.reference.variables
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}
    trained = {id(variable) for variable in pair.script.network.trainable_variables}
    assert {key for key, value in ours.items() if id(value) in trained} == set(pair.reference.gradients["naive"])


def check_initial_values(pair):
    errors = parity.initial_errors(pair.module, pair.values["article"], pair.reference)
    assert len(errors) == (18 if pair.experiment == 5 else 16)
    assert all(error.passes for error in errors), [str(error) for error in errors]


def nan_columns(experiment, setting):
    """Columns that may be NaN on both sides: by the naive loss at once, in experiment 1 from step 2 by the fused."""
    if is_nan(experiment, setting):
        return "loss", "gradient", "update 1", "evaluation"
    if experiment == 1 and setting.values == "article":
        return "loss", "accuracy", "update 5", "evaluation"
    return ()


def check_parity(pair, setting, steps=parity.STEPS, gradient=True):
    found, may_be_nan = pair.compare(setting, steps, gradient), nan_columns(pair.experiment, setting)
    for column, errors in found.items():
        passes = [error.passes or column in may_be_nan and np.isnan(error.size) for error in errors]
        assert all(passes), (column, [str(error) for error, good in zip(errors, passes) if not good])
    if is_nan(pair.experiment, setting):
        assert all(np.isnan(error.size) for column in ("loss", "gradient", "update 1") for error in found[column])


def check_mistake(pair, mistake):
    found = pair.with_mistake(mistake, every_column=False)
    assert not worst(found[mistake.column]).passes, {column: str(worst(errors)) for column, errors in found.items()}


def check_evaluation_protocol(pair):
    """The run loop evaluates the first test images in one batch, with dropout, here in the article's resize."""
    size, values = 7, pair.values["article"]
    flags = ["--test-size", str(size), "--train-size", "8", "--batch-size", "4", "--resize", "opencv", "--seed", "3"]
    args, mnist = arguments.parse("alexnet", "", flags), data.load()
    pair.script.assign(values)
    pair.reference.assign(values)
    module, network = pair.module, pair.script.network
    dataset = select(mnist, args.train_size, args.test_size, args.batch_size)
    loop = Training(
        network, module.naive_loss, module.learning_rate, dataset, args, State(), save_checkpoint=None, stop=None
    )
    found = loop.evaluate()
    masks = dropout_masks(dropout_seeds(args.seed, 0, loop.iterations), size)
    expected = pair.reference.evaluate(reference.resize(mnist.test_images[:size]), mnist.test_labels[:size], masks)
    np.testing.assert_allclose(found, expected, rtol=parity.BOUND)
    assert arguments.parse("alexnet", "", []).test_size == 1000


# One step of each kind of network and one mistake; all others are marked slow. So are checks of what is the same code
# in an earlier experiment (test_networks.test_all_but_the_subject_is_the_same_code), and of initial values that are
# known by formula (test_networks.test_initial_values).
QUICK = {"variables", "initial values", "one step", "evaluation protocol", "epsilon 1e-5"}
NEW_CODE = {"variables": (2, 4, 5, 6), "initial values": (4,), "one step": (2, 5, 6)}


def checks():
    """All checks that need a network, experiment by experiment, so that each network is built once."""
    for experiment in EXPERIMENTS:
        found = {"variables": check_variables, "initial values": check_initial_values}
        if experiment in NEW_CODE["one step"]:  # of the five that the slow tests take
            he = Setting("he", "naive", True)
            probed = experiment in reference.BATCH_NORM  # elsewhere the update, rate * gradient, shows the same
            found["one step"] = functools.partial(check_parity, setting=he, steps=1, gradient=probed)
        for setting in settings(experiment):
            found[" ".join(str(setting).split())] = functools.partial(check_parity, setting=setting)
        for mistake in MISTAKES:
            if mistake.experiment == experiment:
                found[mistake.name] = functools.partial(check_mistake, mistake=mistake)
        if experiment in (2, 6):
            found["evaluation protocol"] = check_evaluation_protocol
        for name, check in found.items():
            quick = name in QUICK and experiment in NEW_CODE.get(name, EXPERIMENTS)
            marks = () if quick else pytest.mark.slow
            yield pytest.param(experiment, check, id=f"alexnet{experiment}: {name}", marks=marks)


@pytest.mark.parametrize("experiment, check", list(checks()))
def test_experiment(experiment, check):
    check(OnePair.of(experiment))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_losses_and_learning_rates(experiment):
    module = importlib.import_module(f"alexnet{experiment}")
    logits = np.random.default_rng(0).normal(0, 5, [6, 10]).astype(np.float32)
    labels = reference.one_hot(np.arange(6))
    for method, function in ("naive", module.naive_loss), ("fused", module.fused_loss):
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            expected = session.run(reference.cross_entropy(logits, labels, method))
        assert function(logits, labels).numpy() == pytest.approx(expected, rel=1e-6)
    assert parity.schedule_error(module, experiment) < 1e-12


def test_resizes_agree():
    digits = data.load().test_images[:4]
    for resize in resize_opencv, resize_tensorflow:
        np.testing.assert_allclose(resize(digits), reference.resize(digits), atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 13, 13, 384), (4, 4096)], ids=["conv3", "fc2"])
def test_tensorflows_batch_norm_is_the_composed_one(shape):
    random = np.random.default_rng(0)
    inputs, upstream = random.normal(3, 2, shape), random.normal(size=shape)
    scale, beta = random.normal(1, 0.1, shape[-1]), random.normal(0, 0.1, shape[-1])

    def outputs_and_gradients(dtype, composed):
        given = [tf.constant(value, dtype) for value in (inputs, scale, beta)]
        with tf.GradientTape() as tape:
            tape.watch(given)
            outputs = reference.normalise(*given, composed)[0]
        return [outputs, *tape.gradient(outputs, given, tf.constant(upstream, dtype))]

    exact = outputs_and_gradients(tf.float64, composed=True)
    for value, expected in zip(outputs_and_gradients(tf.float32, composed=False), exact):
        assert parity.relative_error(value, expected) < 1e-6


@pytest.mark.parametrize(
    "value, expected, error",
    [
        ([1, 2], [1, 2], 0),
        ([1, 3], [1, 2], 1 / np.sqrt(5)),
        ([np.nan, 2], [np.nan, 2], 0),
        ([np.nan, np.nan], [np.nan, np.nan], np.nan),
        ([np.nan, 2], [1, 2], np.inf),
        ([1, 2], [np.nan, 2], np.inf),
        ([np.inf, 2], [-np.inf, 2], np.inf),
        ([1, 2], [0, 0], np.inf),
        ([0, 0], [0, 0], np.nan),
    ],
)
def test_relative_error(value, expected, error):
    found = parity.relative_error(np.float32(value), np.float32(expected))
    assert found == pytest.approx(error, nan_ok=True)


@pytest.mark.parametrize(
    "experiment, old, new, draw",
    [
        (2, "stddev=0.01", "stddev=0.012", lambda module: module.weight("conv1", [11, 11, 1, 96])),
        (2, "mean=0.005", "mean=0.05", lambda module: module.bias("fc1", [4096])),
        (4, "get_variable(", "get_variable(initializer=tf.zeros_initializer(), name=", lambda m: m.bias("fc1", [4096])),
    ],
)
def test_wrong_initial_values_are_caught(experiment, old, new, draw):
    right = importlib.import_module(f"alexnet{experiment}")
    wrong = parity.Mistake("initial values", experiment, "", old, new).plant(right)
    tf.random.set_seed(0)
    samples = [parity.sampled(lambda m=m: draw(m).numpy(), [], least=50_000) for m in (right, right, wrong)]
    distances = [parity.distribution_distance(samples[0], other) for other in samples[1:]]
    assert [distance <= bound for distance, bound in distances] == [True, False]
