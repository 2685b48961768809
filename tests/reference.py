"""The seven experiments as the article computed them: one graph, placeholders, a Session, GradientDescentOptimizer.

Written from the specification, independently of the scripts: it shares no code and no constant with them.
"""

from typing import NamedTuple

import cv2
import numpy as np
import tensorflow as tf

v1 = tf.compat.v1

CLASSES = 10
SMALL_VALUES = (2, 3, 5, 6)  # experiments with the small initial values
DEFAULT_VALUES = (1, 7)  # truncated normal of stddev 1; experiment 4 has get_variable's
GROUPED = (5,)
BATCH_NORM = (6, 7)
LOSSES = ("naive", "fused")


class Convolution(NamedTuple):
    """A convolution with what follows its bias and ReLU; groups is what experiment 5 makes of it."""

    name: str
    size: int
    inputs: int
    outputs: int
    stride: int
    padding: str
    normalised: bool  # by local response, in the experiments without batch norm
    pooled: bool
    groups: int


CONVOLUTIONS = (
    Convolution("conv1", 11, 1, 96, 4, "VALID", normalised=True, pooled=True, groups=1),
    Convolution("conv2", 5, 96, 256, 1, "SAME", normalised=True, pooled=True, groups=1),
    Convolution("conv3", 3, 256, 384, 1, "SAME", normalised=False, pooled=False, groups=1),
    Convolution("conv4", 3, 384, 384, 1, "SAME", normalised=False, pooled=False, groups=2),
    Convolution("conv5", 3, 384, 256, 1, "SAME", normalised=False, pooled=True, groups=2),
)
HIDDEN = (("fc1", 9216, 4096), ("fc2", 4096, 4096))


def resize(digits):
    """uint8 [batch, 28, 28] to float32 [batch, 227, 227, 1] in [0, 1], by cv2."""
    return np.array([cv2.resize(digit / np.float32(255), (227, 227)) for digit in digits])[..., None]


def one_hot(labels):
    """Labels [batch] to float32 [batch, 10]."""
    return np.eye(CLASSES, dtype=np.float32)[labels]


def learning_rate(experiment, epoch):
    """The step size on the summed loss, for an epoch counted from 0."""
    drops = sum(epoch >= start for start in (30, 50, 70)) if experiment == 3 else 0
    return 1e-4 / 10**drops


def initializers(experiment):
    """The initializers for get_variable of (weights, biases); None is its default."""
    if experiment in SMALL_VALUES:
        return v1.truncated_normal_initializer(0.0, 0.01), v1.truncated_normal_initializer(0.005, 0.1)
    if experiment in DEFAULT_VALUES:
        return v1.truncated_normal_initializer(), v1.constant_initializer(0.1)
    return None, None


def local_response(inputs):
    """LRN over five neighbouring channels of [batch, height, width, channels]; alpha is not divided by their number."""
    return tf.nn.local_response_normalization(inputs, depth_radius=2, bias=1.0, alpha=2e-5, beta=0.75)


def normalise(inputs, scale, beta, composed=False):
    """Batch norm by the moments of inputs [..., n], which are returned too; composed of plain ops, or TensorFlow's.

    The article's is the composed one. The two differ only by rounding, which gradients magnify: see parity.BOUND.
    """
    axes = list(range(len(inputs.shape) - 1))
    mean, variance = tf.nn.moments(inputs, axes)
    if composed:
        outputs = tf.nn.batch_normalization(inputs, mean, variance, beta, scale, 0.001)
    else:
        images = inputs if len(axes) == 3 else tf.reshape(inputs, [-1, 1, 1, inputs.shape[-1]])
        outputs = tf.reshape(v1.nn.fused_batch_norm(images, scale, beta, epsilon=0.001)[0], tf.shape(inputs))
    return outputs, mean, variance


def drop_out(inputs, mask):
    """Dropout by a mask of 0 and 2: a choice, as in graph mode today, that stops even a NaN.

    TensorFlow 1 multiplied by the mask; if a unit is dropped in the whole batch, NaN gradients differ.
    """
    return tf.where(mask > 0, inputs * mask, tf.zeros_like(inputs))


def cross_entropy(logits, labels, method):
    """The loss of logits and one-hot labels [batch, 10], summed over the batch."""
    if method == "naive":
        return tf.reduce_mean(-tf.reduce_sum(labels * v1.log(tf.nn.softmax(logits))))
    return tf.reduce_sum(v1.nn.softmax_cross_entropy_with_logits_v2(labels=labels, logits=logits))


class Reference:
    """The graph and Session of one experiment. Its variables are named conv1/weights, conv1/biases, ...

    Values are NumPy arrays, by variable name.
    """

    def __init__(self, experiment):
        self.experiment = experiment
        self.variables, self.assignments, self.biased = {}, {}, {}
        with tf.Graph().as_default() as graph:
            self.pixels = v1.placeholder(tf.float32, [None, 227, 227, 1])
            self.labels = v1.placeholder(tf.float32, [None, CLASSES])
            self.masks = [v1.placeholder(tf.float32, [None, size]) for _, _, size in HIDDEN]
            self.rate = v1.placeholder(tf.float32, [])
            self.logits = self._network()
            probabilities = tf.nn.softmax(self.logits)
            hits = tf.equal(tf.argmax(probabilities, 1), tf.argmax(self.labels, 1))
            self.accuracy = tf.reduce_mean(tf.cast(hits, tf.float32))
            self.loss, self.gradients, self.training, self.terms = {}, {}, {}, {}
            for method in LOSSES:
                self._train(method)
        self.session = v1.Session(graph=graph)

    def _variable(self, name, shape, initializer, trainable=True):
        variable = v1.get_variable(name, shape, tf.float32, initializer, trainable=trainable)
        value = v1.placeholder(tf.float32, shape)
        self.variables[name], self.assignments[name] = variable, (v1.assign(variable, value), value)
        return variable

    def _weights_and_biases(self, name, shape, outputs, groups=1):
        """The kernels of a layer, one per group, and its bias."""
        weights, biases = initializers(self.experiment)
        names = [name] if groups == 1 else [f"{name}_{number + 1}" for number in range(groups)]
        kernels = [self._variable(f"{each}/weights", shape, weights) for each in names]
        return kernels, self._variable(f"{name}/biases", [outputs], biases)

    def _batch_norm(self, name, inputs):
        """Normalise by the batch's own moments; every forward pass updates the running ones."""
        size = [inputs.shape[-1]]
        scale = self._variable(f"{name}/scale", size, v1.ones_initializer())
        beta = self._variable(f"{name}/beta", size, v1.zeros_initializer())
        running_mean = self._variable(f"{name}/running_mean", size, v1.zeros_initializer(), trainable=False)
        running_variance = self._variable(f"{name}/running_variance", size, v1.ones_initializer(), trainable=False)
        outputs, mean, variance = normalise(inputs, scale, beta)
        moves = [
            v1.assign(running, running * 0.999 + moment * (1 - 0.999))
            for running, moment in ((running_mean, mean), (running_variance, variance))
        ]
        with tf.control_dependencies(moves):
            return tf.identity(outputs)

    def _activate(self, name, biased):
        self.biased[name] = biased
        return tf.nn.relu(self._batch_norm(name, biased) if self.experiment in BATCH_NORM else biased)

    def _convolve(self, layer, inputs):
        groups = layer.groups if self.experiment in GROUPED else 1
        shape = [layer.size, layer.size, layer.inputs // groups, layer.outputs // groups]
        kernels, biases = self._weights_and_biases(layer.name, shape, layer.outputs, groups)
        parts = [
            tf.nn.conv2d(part, kernel, layer.stride, layer.padding)
            for part, kernel in zip(tf.split(inputs, groups, axis=3), kernels)
        ]
        outputs = self._activate(layer.name, tf.nn.bias_add(tf.concat(parts, axis=3), biases))
        if layer.normalised and self.experiment not in BATCH_NORM:
            outputs = local_response(outputs)
        return tf.nn.max_pool2d(outputs, 3, 2, "VALID") if layer.pooled else outputs

    def _network(self):
        """The logits [batch, 10] of self.pixels."""
        values = self.pixels
        for layer in CONVOLUTIONS:
            values = self._convolve(layer, values)
        values = tf.reshape(values, [-1, HIDDEN[0][1]])
        for (name, inputs, outputs), mask in zip(HIDDEN, self.masks):
            (kernel,), biases = self._weights_and_biases(name, [inputs, outputs], outputs)
            values = drop_out(self._activate(name, tf.matmul(values, kernel) + biases), mask)
        (kernel,), biases = self._weights_and_biases("output", [HIDDEN[-1][2], CLASSES], CLASSES)
        return tf.matmul(values, kernel) + biases

    def _train(self, method):
        """The loss by one method, its gradients by variable name, and the training step.

        terms holds, for the biases before batch norm, the summed magnitude of the terms of their gradient.
        """
        names = {variable.ref(): name for name, variable in self.variables.items()}
        loss = cross_entropy(self.logits, self.labels, method)
        optimizer = v1.train.GradientDescentOptimizer(self.rate)
        pairs = optimizer.compute_gradients(loss)
        self.loss[method], self.training[method] = loss, optimizer.apply_gradients(pairs)
        self.gradients[method] = {names[variable.ref()]: gradient for gradient, variable in pairs}
        biased = self.biased if self.experiment in BATCH_NORM else {}
        self.terms[method] = {
            f"{name}/biases": tf.reduce_sum(tf.abs(gradient), list(range(len(gradient.shape) - 1)))
            for name, gradient in zip(biased, tf.gradients(loss, list(biased.values())))
        }

    def draw(self):
        """Draw an initial value for every variable."""
        self.session.run([variable.initializer for variable in self.variables.values()])

    def assign(self, values):
        """Set the variables that values names."""
        for name, value in values.items():
            assignment, placeholder = self.assignments[name]
            self.session.run(assignment.op, {placeholder: value})

    def redraw(self, name):
        """A new initial value of one variable."""
        self.session.run(self.variables[name].initializer)
        return self.read(name)

    def read(self, name):
        """The value of one variable."""
        return self.session.run(self.variables[name])

    def _run(self, fetches, pixels, labels, masks, rate=0.0):
        feed = {self.pixels: pixels, self.labels: one_hot(labels), self.rate: rate, **dict(zip(self.masks, masks))}
        return self.session.run(fetches, feed)

    def step(self, pixels, labels, masks, rate, method="naive"):
        """One training step; returns its loss and accuracy."""
        fetches = [self.loss[method], self.accuracy, self.training[method]]
        return self._run(fetches, pixels, labels, masks, rate)[:2]

    def differentiate(self, pixels, labels, masks, method="naive", gradients=True):
        """Logits, loss, accuracy, gradients by variable name (if asked for), and the terms of _train.

        Nothing is trained, but running moments are updated, as in every forward pass.
        """
        wanted = self.gradients[method] if gradients else {}
        fetches = [self.logits, self.loss[method], self.accuracy, wanted, self.terms[method]]
        return self._run(fetches, pixels, labels, masks)

    def evaluate(self, pixels, labels, masks, method="naive"):
        """Summed loss and accuracy of one batch, fetched together: fetched by itself, the loss would lose its NaN."""
        return self._run([self.loss[method], self.accuracy], pixels, labels, masks)

    def close(self):
        self.session.close()
