"""The order of the images, and their resize from 28x28 bytes to 227x227 float32 in [0, 1], bilinear."""

from common.tensorflow import tf
import cv2
import numpy as np

SIZE = 227


def shuffled(seed, epoch, size, batch_size):
    """The order of an epoch counted from 0: int32 [size // batch_size, batch_size], a function of its arguments."""
    order = np.random.default_rng([seed, epoch]).permutation(size).astype(np.int32)
    return order[: size // batch_size * batch_size].reshape(-1, batch_size)


def in_order(size, batch_size):
    """The order of an evaluation: int32 batches of nearly equal size, as few of at most batch_size as possible."""
    return np.array_split(np.arange(size, dtype=np.int32), -(-size // batch_size))


def resize_tensorflow(images):
    """uint8 [batch, 28, 28] to float32 [batch, 227, 227, 1], equal to resize_opencv to 1e-5."""
    return tf.image.resize(tf.cast(images, tf.float32)[..., tf.newaxis] / 255, [SIZE, SIZE])


def resize_opencv(images):
    """The same with the article's cv2.resize, image by image, on NumPy arrays."""
    pixels = images.astype(np.float32) / 255
    return np.stack([cv2.resize(image, (SIZE, SIZE)) for image in pixels])[..., np.newaxis]


class TensorFlowInput:
    """Images stay on the device as bytes; a batch is the indices of its images, gathered and resized inside the step.

    images uint8 [n, 28, 28], labels uint8 [n].
    """

    def __init__(self, images, labels):
        # Variables: on a GPU TensorFlow gathers bytes from a variable, not from a constant.
        self.images, self.labels = (tf.Variable(array, trainable=False) for array in (images, labels))

    def batches(self, order):
        """An iterator of batches, one per step; order is int32 [steps, batch]."""
        return iter(order)

    def load(self, indices):
        """Inside the step: a batch to pixels [batch, 227, 227, 1] and labels uint8 [batch]."""
        return resize_tensorflow(tf.gather(self.images, indices)), tf.gather(self.labels, indices)


class OpenCVInput:
    """The same, with the images resized by OpenCV on the host, in parallel and ahead of the step."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def batches(self, order):
        @tf.autograph.experimental.do_not_convert
        def read(indices):
            pixels = tf.numpy_function(lambda chosen: resize_opencv(self.images[chosen]), [indices], tf.float32)
            return tf.ensure_shape(pixels, [order.shape[1], SIZE, SIZE, 1]), tf.gather(self.labels, indices)

        with tf.device("/CPU:0"):  # tf.data runs there, in a GPU's scope too
            steps = tf.data.Dataset.from_tensor_slices(order)
            return iter(steps.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(2))

    def load(self, batch):
        return batch
