"""Where the NaN comes from: the naive loss on a saturated batch, in each of TensorFlow's modes."""

import importlib

from common.step import LAYERS, BatchMetrics, compile_steps
from common.tensorflow import tf
import numpy as np
import pytest

RUNS = {
    "eager": lambda function: function,
    "tf.function": tf.function,
    "XLA": lambda function: tf.function(function, jit_compile=True),
}
LABELS = tf.one_hot([0, 2], 10)


def logits(gap):
    """Two images: one classified right and gap apart from the other nine classes, one ordinary."""
    return tf.constant([[gap] + [0] * 9, range(10)], tf.float32)


@pytest.fixture(params=range(1, 8), ids=lambda n: f"alexnet{n}")
def module(request):
    return importlib.import_module(f"alexnet{request.param}")


@pytest.mark.parametrize("how", RUNS)
def test_naive_loss_is_nan_once_a_softmax_entry_is_zero(module, how):
    naive = RUNS[how](module.naive_loss)
    finite = 9 + np.log(np.exp(np.arange(10) - 9.0).sum()) - 2
    assert naive(logits(86.0), LABELS).numpy() == pytest.approx(finite, rel=1e-6)
    assert np.isnan(naive(logits(105.0), LABELS).numpy())


@pytest.mark.parametrize("how", RUNS)
def test_only_that_image_has_a_nan_gradient(module, how):
    def gradient(values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss = module.naive_loss(values, LABELS)
        return tape.gradient(loss, values)

    saturated, ordinary = RUNS[how](gradient)(logits(105.0)).numpy()
    assert np.isnan(saturated).all() and np.isfinite(ordinary).all()


@pytest.mark.parametrize("how", RUNS)
def test_fused_loss_is_the_same_sum_and_stays_finite(module, how):
    fused = RUNS[how](module.fused_loss)
    assert fused(logits(50.0), LABELS).numpy() == pytest.approx(module.naive_loss(logits(50.0), LABELS).numpy())
    assert fused(logits(1e6), LABELS).numpy() == pytest.approx(fused(logits(50.0), LABELS).numpy())


class Bias(tf.Module):
    """A network whose layers are all the same: its input, [batch, 10], plus a bias."""

    def __init__(self):
        super().__init__()
        self.bias = tf.Variable(tf.zeros([10]))

    def __call__(self, images, dropout_seeds, training):
        return dict.fromkeys(LAYERS, images + self.bias)


class Given:
    """An input whose batches are the pixels and labels themselves."""

    def load(self, batch):
        return batch


@pytest.mark.parametrize("xla", [False, True], ids=["tf.function", "XLA"])
@pytest.mark.parametrize(
    "gap, loss_nan, underflow, finite", [(80, 0, 0, 1), (105, 1, 1, 1), (2e4, 1, 1, 1), (float("inf"), 1, 0, 0)]
)
def test_step_and_evaluation_measure_the_same(xla, gap, loss_nan, underflow, finite):
    module = importlib.import_module("alexnet1")
    train, evaluate = compile_steps(Bias(), module.naive_loss, Given(), Given(), xla)
    batch = (tf.reverse(logits(gap), [0]), tf.constant([2, 0], tf.uint8))
    trained = BatchMetrics.from_vector(train(batch, None, tf.constant(0.1)))
    evaluated = BatchMetrics.from_vector(evaluate((batch[0], batch[1]), None))
    assert np.isnan(trained.loss) == trained.nan_weights == loss_nan
    assert trained.finite == finite and trained.image == 1
    if finite:
        assert trained.underflow == underflow and trained.gap == gap and trained.correct == 1
    assert trained.max_activations == ((gap,) * len(LAYERS) if loss_nan else (0,) * len(LAYERS))
    if loss_nan:
        assert np.isnan(evaluated.loss) and evaluated.correct == 1  # NaN weights: class 0 for both images
    else:
        assert evaluated.nan_weights == 0 and np.isfinite(evaluated.loss)


@pytest.mark.gpu
@pytest.mark.parametrize("how", RUNS)
def test_the_threshold_on_a_gpu(how):
    """NaN between a gap of 86, where exp(-gap) is a normal float32, and 105, where it is not even denormal."""
    module = importlib.import_module("alexnet1")

    def gradient(values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss = module.naive_loss(values, LABELS)
        return tape.gradient(loss, values)

    with tf.device("/GPU:0"):
        gaps = np.arange(86, 105.5, 0.5)
        turned = [gap for gap in gaps if np.isnan(RUNS[how](gradient)(logits(gap)).numpy()).any()]
    assert 86 < turned[0] <= 105 and turned == gaps[-len(turned) :].tolist()
