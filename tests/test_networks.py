"""The seven networks: shapes, parameter counts, initial values, learning rates, groups, batch norm, dropout."""

import importlib
import inspect
import math
import re

from common.checkpoint import variables_by_name
from common.step import LAYERS
from common.tensorflow import tf
import numpy as np
import pytest

import alexnet2
import alexnet3
import alexnet5
import alexnet6
import alexnet7

SHAPES = {
    "conv1": (55, 55, 96),
    "pool1": (27, 27, 96),
    "conv2": (27, 27, 256),
    "pool2": (13, 13, 256),
    "conv3": (13, 13, 384),
    "conv4": (13, 13, 384),
    "conv5": (13, 13, 256),
    "pool5": (6, 6, 256),
    "fc1": (4096,),
    "fc2": (4096,),
    "output": (10,),
}
# name: (shape of the weights, fan in + fan out)
WEIGHTS = {
    "conv1": ((11, 11, 1, 96), 121 * (1 + 96)),
    "conv2": ((5, 5, 96, 256), 25 * (96 + 256)),
    "conv3": ((3, 3, 256, 384), 9 * (256 + 384)),
    "conv4": ((3, 3, 384, 384), 9 * (384 + 384)),
    "conv5": ((3, 3, 384, 256), 9 * (384 + 256)),
    "fc1": ((9216, 4096), 9216 + 4096),
    "fc2": ((4096, 4096), 4096 + 4096),
    "output": ((4096, 10), 4096 + 10),
}
GROUPED = {
    **{name: facts for name, facts in WEIGHTS.items() if name not in ("conv4", "conv5")},
    **{f"conv4_{group}": ((3, 3, 192, 192), None) for group in (1, 2)},
    **{f"conv5_{group}": ((3, 3, 192, 128), None) for group in (1, 2)},
}
TRUNCATED = 0.8796256610342398  # standard deviation of a unit normal cut off at +-2


@pytest.mark.parametrize("batch", [2, 3])
def test_shape_of_every_layer(experiment, pixels, seeds, batch):
    _, _, network = experiment
    layers = network(pixels[:batch], seeds, training=True)
    assert {name: tuple(layer.shape) for name, layer in layers.items()} == {
        name: (batch, *shape) for name, shape in SHAPES.items()
    }
    assert tuple(layers) == LAYERS


def test_parameters(experiment):
    number, _, network = experiment
    assert hasattr(network, "running_means") == (number in (6, 7))
    weights = GROUPED if number == 5 else WEIGHTS
    assert {name: tuple(w.shape) for name, w in network.weights.items()} == {n: s for n, (s, _) in weights.items()}
    assert {name: b.shape for name, b in network.biases.items()} == {name: (WEIGHTS[name][0][-1],) for name in WEIGHTS}
    trainable = {1: 58_299_082, 5: 57_193_162, 6: 58_299_082 + 2 * 9_568}
    assert sum(math.prod(v.shape) for v in network.trainable_variables) == trainable.get(
        {7: 6, 5: 5, 6: 6}.get(number, 1)
    )


def test_variable_names_are_unique(experiment):
    number, _, network = experiment
    names = variables_by_name(network)
    assert len(names) == len(network.variables) == {5: 18, 6: 44, 7: 44}.get(number, 16)
    assert all(re.fullmatch(r"(conv[1-5](_[12])?|fc[12]|output)/[a-z_]+", name) for name in names)


def assert_distribution(value, mean, deviation, low, high):
    """Mean and standard deviation within five standard errors, and all of [low, high] filled."""
    value = value.numpy().ravel()
    average = value.mean(dtype=float)
    square = np.einsum("i,i", value, value, dtype=float) / value.size  # in float64 without a copy of the tensor
    error = deviation / math.sqrt(value.size)
    assert abs(average - mean) <= 5 * error
    assert abs(math.sqrt(square - average**2) - deviation) <= 5 * error
    slack = 1e-6 * (high - low)
    assert low - slack <= value.min() and value.max() <= high + slack
    assert value.max() - value.min() >= 0.99 * (high - low)


def test_initial_values(experiment):
    number, _, network = experiment
    for name, variable in network.weights.items():
        if number == 4:
            limit = math.sqrt(6 / WEIGHTS[name][1])
            assert_distribution(variable, 0, limit / math.sqrt(3), -limit, limit)
        else:
            stddev = 1 if number in (1, 7) else 0.01
            assert_distribution(variable, 0, TRUNCATED * stddev, -2 * stddev, 2 * stddev)
    for variable in network.biases.values():
        if number in (1, 7):
            assert np.all(variable.numpy() == np.float32(0.1))
        elif number == 4:
            limit = math.sqrt(3 / variable.shape[0])
            value = variable.numpy()
            assert np.abs(value).max() <= limit and np.abs(value).max() > 0.5 * limit
        else:
            value = variable.numpy()
            assert np.abs(value - 0.005).max() <= 0.2 * (1 + 1e-6)
            assert abs(value.mean() - 0.005) <= 5 * 0.1 * TRUNCATED / math.sqrt(value.size)
            assert value.size < 96 or value.std() == pytest.approx(0.1 * TRUNCATED, rel=0.25)


def test_initial_values_follow_the_seed(experiment):
    _, module, network = experiment
    first = network.weights["conv1"].numpy()
    tf.random.set_seed(0)
    assert np.array_equal(module.weight("conv1", [11, 11, 1, 96]).numpy(), first)
    tf.random.set_seed(1)
    assert not np.array_equal(module.weight("conv1", [11, 11, 1, 96]).numpy(), first)


def test_every_gradient_is_there(experiment, pixels, seeds):
    _, module, network = experiment
    with tf.GradientTape() as tape:
        logits = network(pixels, seeds, training=True)["output"]
        loss = module.fused_loss(logits, tf.one_hot([5, 0, 4, 1], 10))
    for variable, gradient in zip(network.trainable_variables, tape.gradient(loss, network.trainable_variables)):
        assert gradient is not None, variable.name
        assert np.any(gradient.numpy() != 0), variable.name


def test_learning_rate(experiment):
    number, module, _ = experiment
    if number == 3:
        expected = {0: 1e-4, 29: 1e-4, 30: 1e-5, 49: 1e-5, 50: 1e-6, 69: 1e-6, 70: 1e-7, 1000: 1e-7}
    else:
        expected = dict.fromkeys((0, 29, 30, 49, 50, 69, 70, 1000), 1e-4)
    assert {epoch: module.learning_rate(epoch) for epoch in expected} == expected


def test_dropout_is_on_in_evaluation_too(experiment, pixels, seeds):
    number, _, network = experiment
    trained = network(pixels, seeds, training=True)
    evaluated = network(pixels, seeds, training=False)
    for name in ("fc1", "fc2"):
        assert np.array_equal(trained[name], evaluated[name])
    kept = evaluated["fc1"].numpy() != 0
    other = network(pixels, seeds + 1, training=False)["fc1"].numpy() != 0
    assert not np.array_equal(kept, other)
    if number in (6, 7):  # about half of a normalised layer is positive, and half of that is dropped
        assert kept.mean() == pytest.approx(0.25, abs=0.05)
    assert not np.array_equal(kept, evaluated["fc2"].numpy() != 0)


def test_dropout_scales_what_it_keeps(pixels, seeds, monkeypatch):
    network = alexnet2.AlexNet()
    dropped = network(pixels, seeds, training=True)["fc1"].numpy()
    monkeypatch.setattr(alexnet2, "dropout_rate", 0.0)
    undropped = network(pixels, seeds, training=True)["fc1"].numpy()
    kept = dropped != 0
    assert kept.sum() / (undropped != 0).sum() == pytest.approx(0.5, abs=0.03)
    np.testing.assert_allclose(dropped[kept], 2 * undropped[kept], rtol=1e-6)


def test_groups_equal_a_block_diagonal_convolution(pixels, seeds):
    grouped, full = alexnet5.AlexNet(), alexnet2.AlexNet()
    for name, variable in full.weights.items():
        if name in ("conv4", "conv5"):
            first, second = (grouped.weights[f"{name}_{group}"].numpy() for group in (1, 2))
            kernel = np.zeros(variable.shape, np.float32)
            kernel[:, :, : first.shape[2], : first.shape[3]] = first
            kernel[:, :, first.shape[2] :, first.shape[3] :] = second
            variable.assign(kernel)
        else:
            variable.assign(grouped.weights[name])
    for name, variable in full.biases.items():
        variable.assign(grouped.biases[name])
    ours, reference = (network(pixels * 100, seeds, training=True) for network in (grouped, full))
    for name in ("conv4", "conv5", "output"):
        np.testing.assert_allclose(ours[name], reference[name], rtol=1e-4, atol=1e-5 * np.abs(reference[name]).max())


@pytest.fixture
def without_weights(monkeypatch):
    """Do not draw the 58 million weights, which batch norm does not read."""
    for module in alexnet6, alexnet7:
        monkeypatch.setattr(module, "weight", lambda name, shape: None)


@pytest.mark.usefixtures("without_weights")
@pytest.mark.parametrize("name, shape", [("conv3", [4, 5, 6, 384]), ("fc2", [8, 1, 1, 4096])])
def test_batch_norm(name, shape):
    network, axes = alexnet6.AlexNet(), (0, 1, 2)
    inputs = np.random.default_rng(0).normal(3, 2, shape).astype(np.float32)
    mean, variance = inputs.mean(axes), inputs.var(axes)
    network.scales[name].assign(network.scales[name] * 3)
    network.betas[name].assign(network.betas[name] + 7)
    for training in (False, True):
        outputs = network.batch_norm(name, tf.constant(inputs), training)
        np.testing.assert_allclose(outputs, 7 + 3 * (inputs - mean) / np.sqrt(variance + 1e-3), rtol=1e-4, atol=1e-4)
        moved = 0.001 if training else 0  # the running statistics move only in training
        np.testing.assert_allclose(network.running_means[name], moved * mean, rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(network.running_variances[name], 1 + moved * (variance - 1), rtol=1e-6)


@pytest.mark.usefixtures("without_weights")
@pytest.mark.parametrize("number", [6, 7])
@pytest.mark.parametrize("shape", [[2, 1, 1, 96], [4, 5, 6, 96]], ids=str)
def test_the_running_variance_is_of_the_batch(number, shape, monkeypatch):
    """Divided by the number of pixels, not by one less."""
    module = importlib.import_module(f"alexnet{number}")
    monkeypatch.setattr(module, "running_decay", 0.0)
    network = module.AlexNet()
    inputs = np.random.default_rng(0).normal(3, 2, shape).astype(np.float32)
    network.batch_norm("conv1", tf.constant(inputs), training=True)
    np.testing.assert_allclose(network.running_variances["conv1"], inputs.var((0, 1, 2), np.float64), rtol=1e-5)
    np.testing.assert_allclose(network.running_means["conv1"], inputs.mean((0, 1, 2), np.float64), rtol=1e-5)


def test_running_statistics_move_once_a_training_step(pixels, seeds):
    network = alexnet6.AlexNet()
    network(pixels, seeds, training=False)
    assert all(np.all(value == 0) for value in network.running_means.values())
    network(pixels, seeds, training=True)
    assert all(np.any(value != 0) for value in network.running_means.values())
    assert not {id(v) for v in network.trainable_variables} & {
        id(v) for v in (*network.running_means.values(), *network.running_variances.values())
    }


@pytest.mark.slow
def test_three_draws_what_two_draws():
    tf.random.set_seed(5)
    two = alexnet2.AlexNet()
    tf.random.set_seed(5)
    three = alexnet3.AlexNet()
    assert all(np.array_equal(a, b) for a, b in zip(two.variables, three.variables))


INITIAL = {"weight", "bias"}
BATCH_NORM = {"AlexNet", "moment", "batch_norm_epsilon", "running_decay", "local_response_normalization"}


@pytest.mark.parametrize(
    "parent, child, subject",
    [
        (1, 2, INITIAL),
        (2, 3, {"learning_rate"}),
        (2, 4, INITIAL),
        (2, 5, {"AlexNet"}),
        (2, 6, BATCH_NORM),
        (6, 7, INITIAL),
    ],
)
def test_all_but_the_subject_is_the_same_code(parent, child, subject):
    """Also the constants and the imports. 7 has the initial values of 1."""
    parent, child, first = (importlib.import_module(f"alexnet{number}") for number in (parent, child, 1))
    one, other = ({name: v for name, v in vars(m).items() if not name.startswith("__")} for m in (parent, child))
    for name in (one.keys() | other.keys()) - subject:
        if getattr(one[name], "__module__", None) == parent.__name__:
            assert inspect.getsource(one[name]) == inspect.getsource(other[name]), name
        else:
            assert one[name] == other[name], name
    if child.__name__ == "alexnet7":
        assert all(inspect.getsource(getattr(first, name)) == inspect.getsource(other[name]) for name in INITIAL)
