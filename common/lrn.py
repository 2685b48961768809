"""Local response normalization for mixed precision on a CPU, compiled by XLA: several times TensorFlow's own speed."""

from common.session import BFLOAT16, tf


def window(values, radius):
    """For each channel c of [..., channels], the sum over the channels from c - radius to c + radius."""
    channels = values.shape[-1]
    padded = tf.pad(values, [[0, 0]] * (values.shape.rank - 1) + [[radius, radius]])
    return sum(padded[..., first : first + channels] for first in range(2 * radius + 1))


def power(base, exponent):
    """base ** exponent; the article's exponent needs no logarithm, which would take most of the time."""
    if exponent != -0.75:
        return base**exponent
    root = tf.math.rsqrt(base)
    return root * tf.sqrt(root)


@tf.function(jit_compile=True)
def forward(inputs, depth_radius, bias, alpha, beta):
    return inputs * power(bias + alpha * window(tf.square(inputs), depth_radius), -beta)


@tf.function(jit_compile=True)
def backward(inputs, upstream, depth_radius, bias, alpha, beta):
    """The gradient, written out: TensorFlow's of forward takes several times as long."""
    sums = bias + alpha * window(tf.square(inputs), depth_radius)
    scaled = upstream * power(sums, -beta)
    return scaled - 2 * alpha * beta * inputs * window(scaled * inputs / sums, depth_radius)


def local_response_normalization(inputs, depth_radius, bias, alpha, beta):
    """tf.nn.local_response_normalization of float32 [batch, height, width, channels], to rounding.

    It is TensorFlow's own but for mixed precision on a CPU, so that float32 stays the article's to the last bit. There
    one thing more differs: where a square overflows, and at a NaN, TensorFlow's result is NaN in all channels, this
    one's only within the window.
    """
    arguments = depth_radius, bias, alpha, beta
    if not tf.config.optimizer.get_experimental_options().get(BFLOAT16):
        return tf.nn.local_response_normalization(inputs, *arguments)

    @tf.custom_gradient
    def normalize(inputs):
        return forward(inputs, *arguments), lambda upstream: backward(inputs, upstream, *arguments)

    return normalize(inputs)
