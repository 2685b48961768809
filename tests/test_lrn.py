"""Local response normalization in mixed precision on a CPU: values, gradients, overflow, NaN."""

from common.lrn import local_response_normalization
from common.step import BFLOAT16
from common.tensorflow import tf
import numpy as np
import pytest

ARTICLE = {"depth_radius": 2, "bias": 1.0, "alpha": 2e-5, "beta": 0.75}
OTHER = {"depth_radius": 3, "bias": 2.0, "alpha": 1e-2, "beta": 0.75}


@pytest.fixture(autouse=True)
def mixed(monkeypatch):
    """What --precision mixed sets, as the function sees it; the tests' own graphs stay float32."""
    monkeypatch.setattr(tf.config.optimizer, "get_experimental_options", lambda: {BFLOAT16: True})


def value_and_gradient(function, inputs, upstream, arguments):
    """The value and the gradient of a tf.function, as in the step."""

    @tf.function
    def both(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = function(inputs, **arguments)
        return outputs, tape.gradient(outputs, inputs, upstream)

    return [tensor.numpy() for tensor in both(tf.constant(inputs))]


def ours_and_tensorflows(inputs, arguments=ARTICLE):
    """Pairs of arrays: the values, the gradients."""
    upstream = np.random.default_rng(1).normal(size=inputs.shape).astype(np.float32)
    return zip(
        value_and_gradient(local_response_normalization, inputs, upstream, arguments),
        value_and_gradient(tf.nn.local_response_normalization, inputs, upstream, arguments),
    )


def activations(largest):
    """Activations [2, 5, 5, 96]: three in four up to largest, the rest 0 as after ReLU."""
    random = np.random.default_rng(0)
    values = random.uniform(-largest / 3, largest, [2, 5, 5, 96])
    return np.maximum(values, 0).astype(np.float32)


@pytest.mark.parametrize("arguments", [ARTICLE, OTHER], ids=["article", "other"])
@pytest.mark.parametrize("largest", [1, 1e3, 1e6, 1e12, 1e18])
def test_values_and_gradients_are_tensorflows(largest, arguments):
    # TensorFlow's power is an exponential of a logarithm, whose rounding grows with it.
    logarithm = arguments["beta"] * np.log(arguments["bias"] + arguments["alpha"] * 7 * largest**2)
    bound = np.finfo(np.float32).eps * (8 + logarithm)
    for ours, theirs in ours_and_tensorflows(activations(largest), arguments):
        # Also relative to the largest: a gradient is a difference, which can be smaller than its cancelling terms.
        np.testing.assert_allclose(ours, theirs, rtol=bound, atol=bound * np.abs(theirs).max())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_nonfinite_pixel_spreads_over_its_window(value):
    inputs = activations(1)
    inputs[1, 2, 3, 40] = value
    for ours, theirs in ours_and_tensorflows(inputs):
        np.testing.assert_array_equal(np.isnan(ours).any(axis=3), np.isnan(theirs).any(axis=3))
        wrong = np.flatnonzero(np.isnan(ours[1, 2, 3]))
        assert 40 in wrong and np.abs(wrong - 40).max() <= 4
        assert np.isnan(theirs[1, 2, 3, wrong]).all()


def test_all_nan_stays_nan():
    for ours, _ in ours_and_tensorflows(np.full([1, 2, 2, 96], np.nan, np.float32)):
        assert np.isnan(ours).all()


@pytest.mark.parametrize(
    "options, beta",
    [({}, 0.75), ({"auto_mixed_precision": True}, 0.75), ({BFLOAT16: True}, 0.6)],
    ids=["float32", "mixed on a GPU", "another beta"],
)
def test_outside_mixed_precision_it_is_tensorflows_own(monkeypatch, options, beta):
    monkeypatch.setattr(tf.config.optimizer, "get_experimental_options", lambda: options)
    monkeypatch.setattr("common.lrn.forward", None)
    inputs = activations(1e3)
    np.testing.assert_array_equal(
        local_response_normalization(tf.constant(inputs), **ARTICLE | {"beta": beta}),
        tf.nn.local_response_normalization(inputs, **ARTICLE | {"beta": beta}),
    )
