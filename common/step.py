"""One training step and one evaluation, compiled; their precision, their dropout, and what both of them measure."""

import os
from typing import NamedTuple

from common.tensorflow import tf
import numpy as np

LAYERS = ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5", "fc1", "fc2", "output")

# The graph rewrite of --precision mixed on a CPU.
BFLOAT16 = "auto_mixed_precision_onednn_bfloat16"
# What must stay float32 under --precision mixed: the loss (its bfloat16 grid near 2300 is 16) and the moments.
KEEP_FLOAT32 = "Softmax,Log,Sum,Mean,SquaredDifference"
# Both: the second alone silently leaves the whole graph in float32.
REWRITE_LISTS = {
    f"TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_{name}": KEEP_FLOAT32 for name in ("INFERLIST_REMOVE", "DENYLIST_ADD")
}


def set_precision(precision, on_gpu):
    """Compute the products of compiled steps in float32, or for "mixed" in 16 bits where that is faster.

    The 16 bits are float16 on a GPU and bfloat16 on a CPU.
    """
    mixed = precision == "mixed"
    os.environ.update(REWRITE_LISTS if mixed else {})
    # False as well: an earlier run in this process may have set it, and common.lrn reads it.
    rewrites = {"auto_mixed_precision": mixed and on_gpu, BFLOAT16: mixed and not on_gpu}
    tf.config.optimizer.set_experimental_options(rewrites)


def dropout_seeds(seed, epoch, iteration):
    """int64 [2, 2]: the seeds of the two dropouts of an iteration, a function of its arguments.

    A tensor on the CPU, where dropout reads it: read from a GPU, it would wait for the previous step.
    """
    words = np.random.SeedSequence([seed, epoch, iteration]).generate_state(4, np.uint64)
    with tf.device("/CPU:0"):
        return tf.constant(words.astype(np.int64).reshape(2, 2))


class BatchMetrics(NamedTuple):
    """What a forward pass over one batch measures; the step returns it as one vector.

    loss             summed over the batch
    correct          images whose largest softmax entry is their label
    nan_weights      1 if a trainable variable holds a NaN after the step, else 0
    finite           1 if every logit is finite, else 0
    underflow        1 if a softmax entry is 0, else 0
    gap              largest logit minus smallest, in the image where that is widest
    image            position of that image in the batch
    max_activations  the largest activation of each of LAYERS where the loss is not finite, else 0
    """

    loss: float
    correct: float
    nan_weights: float
    finite: float
    underflow: float
    gap: float
    image: float
    max_activations: tuple

    @classmethod
    def from_vector(cls, vector):
        values = vector.numpy().tolist()
        return cls(*values[: -len(LAYERS)], tuple(values[-len(LAYERS) :]))


def measure(layers, labels, loss, training):
    """The vector of BatchMetrics, with nan_weights 0, for labels uint8 [batch] and the loss of this batch.

    It is float64: the graph rewrite of --precision mixed would round a float32 vector to 16 bits.
    """

    def activations():
        return tf.stack([tf.cast(tf.reduce_max(layers[name]), tf.float64) for name in LAYERS])

    logits = layers["output"]
    probabilities = tf.nn.softmax(logits)  # the accuracy is taken from it, as in the article
    # NaN counts as class 0, as in TensorFlow's own argmax; XLA's returns 9.
    predicted = tf.argmax(tf.where(tf.math.is_nan(probabilities), 0.0, probabilities), axis=1)
    correct = predicted == tf.cast(labels, tf.int64)
    gaps = tf.reduce_max(logits, axis=1) - tf.reduce_min(logits, axis=1)
    finite = tf.math.is_finite(logits)
    zeros = tf.zeros([len(LAYERS)], tf.float64)
    if training:
        max_activations = tf.cond(tf.math.is_finite(loss), lambda: zeros, activations)
    else:  # cond would keep every layer until the loss is known
        max_activations = tf.where(tf.math.is_finite(loss), zeros, activations())
    flags = [tf.reduce_all(finite), tf.reduce_any(probabilities == 0)]
    scalars = [
        loss,
        tf.math.count_nonzero(correct),
        0,
        *flags,
        tf.reduce_max(gaps),
        tf.argmax(tf.where(tf.reduce_all(finite, axis=1), gaps, float("inf"))),
    ]
    return tf.concat([tf.stack([tf.cast(scalar, tf.float64) for scalar in scalars]), max_activations], axis=0)


def compile_steps(network, loss_function, train_input, test_input, xla):
    """Two functions that return a BatchMetrics vector each.

    train(batch, dropout_seeds, rate)  one step of gradient descent; rate is a float32 tensor
    evaluate(batch, dropout_seeds)     a forward pass through the training network, dropout on

    batch is one of the input's batches; dropout_seeds is int64 [2, 2], on the CPU.
    """
    variables = network.trainable_variables

    def forward(batch, dropout_seeds, source, training):
        images, labels = source.load(batch)
        layers = network(images, dropout_seeds, training)
        loss = loss_function(layers["output"], tf.one_hot(labels, 10))
        return loss, measure(layers, labels, loss, training)

    def train(batch, dropout_seeds, rate):
        with tf.GradientTape() as tape:
            loss, measured = forward(batch, dropout_seeds, train_input, training=True)
        for variable, gradient in zip(variables, tape.gradient(loss, variables)):
            # The operation of the article's GradientDescentOptimizer.
            tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=rate, delta=gradient)
        # A sum of squares is NaN only if one of them is: overflow makes it infinite.
        squares = tf.add_n([tf.nn.l2_loss(variable) for variable in variables])
        nan_weights = tf.one_hot(BatchMetrics._fields.index("nan_weights"), measured.shape[0], dtype=tf.float64)
        return measured + nan_weights * tf.cast(tf.math.is_nan(squares), tf.float64)

    def evaluate(batch, dropout_seeds):
        return forward(batch, dropout_seeds, test_input, training=False)[1]

    # AutoGraph would write a file to the temporary folder, which may be missing.
    return [tf.function(each, jit_compile=xla, autograph=False) for each in (train, evaluate)]
