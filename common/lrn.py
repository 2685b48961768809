"""Local response normalization for mixed precision on a CPU, compiled by XLA: several times TensorFlow's own speed."""

from common.step import BFLOAT16
from common.tensorflow import tf


def window(values, radius):
    """For each channel c of [..., channels], the sum over the channels from c - radius to c + radius."""
    channels = values.shape[-1]
    padded = tf.pad(values, [[0, 0]] * (values.shape.rank - 1) + [[radius, radius]])
    return sum(padded[..., first : first + channels] for first in range(2 * radius + 1))


@tf.function(jit_compile=True, autograph=False)
def forward(inputs, depth_radius, bias, alpha):
    """Outputs for beta 0.75, and sums ** -0.25: products of it make the gradient, with no root or logarithm in it."""
    root = tf.sqrt(tf.math.rsqrt(bias + alpha * window(tf.square(inputs), depth_radius)))
    return inputs * (root * root * root), root


@tf.function(jit_compile=True, autograph=False)
def backward(inputs, upstream, root, depth_radius, alpha):
    """The gradient, written out: TensorFlow's of forward takes several times as long."""
    square = root * root
    scaled = upstream * (root * square)
    return scaled - 1.5 * alpha * inputs * window(scaled * inputs * (square * square), depth_radius)


def local_response_normalization(inputs, depth_radius, bias, alpha, beta):
    """tf.nn.local_response_normalization of float32 [batch, height, width, channels], to rounding.

    It is TensorFlow's own except in mixed precision on a CPU with the article's beta: float32 stays the article's
    to the last bit. There, where a square overflows and at a NaN, TensorFlow's result is NaN in all channels, this
    one's only within the window.
    """
    if beta != 0.75 or not tf.config.optimizer.get_experimental_options().get(BFLOAT16):
        return tf.nn.local_response_normalization(inputs, depth_radius, bias, alpha, beta)

    @tf.custom_gradient
    def normalize(inputs):
        outputs, root = forward(inputs, depth_radius, bias, alpha)
        return outputs, lambda upstream: backward(inputs, upstream, root, depth_radius, alpha)

    return normalize(inputs)
