"""What the watch of NaN weights, logit gap and underflow costs: a step with it against one without it, in turn.

python -m tests.watch_cost [PAIRS]   (20 pairs of steps on a batch of 200; prints the median of the ratios of their
times and its 95 % interval, from the order of the ratios alone)
"""

import math
import sys
import time

from common import data, step
from common.input import TensorFlowInput
from common.tensorflow import tf
import numpy as np

import alexnet6


def compiled(network, source, watched):
    """The training step of common/step.py, or the same without anything but loss and accuracy."""
    everything, l2_loss = step.measure, tf.nn.l2_loss

    def loss_and_accuracy(layers, labels, loss, training):
        predicted = tf.argmax(tf.nn.softmax(layers["output"]), axis=1, output_type=tf.int32)
        correct = tf.reduce_sum(tf.cast(predicted == tf.cast(labels, tf.int32), tf.float32))
        return tf.concat([[loss, correct], tf.zeros([16])], axis=0)

    def trained(*given):
        if not watched:
            step.measure, tf.nn.l2_loss = loss_and_accuracy, lambda variable: tf.constant(0.0)
        try:
            return train(*given)
        finally:
            step.measure, tf.nn.l2_loss = everything, l2_loss

    train, _ = step.compile_steps(network, alexnet6.naive_loss, source, source, xla=False)
    return trained


def main(pairs):
    mnist = data.load()
    source = TensorFlowInput(mnist.train_images[:2000], mnist.train_labels[:2000])
    network = alexnet6.AlexNet()
    steps = [compiled(network, source, watched) for watched in (True, False)]
    seeds, rate = np.array([[1, 2], [3, 4]]), tf.constant(1e-4)

    def seconds(trained, number):
        started = time.perf_counter()
        trained(np.arange(200, dtype=np.int32) + 200 * (number % 10), seeds, rate).numpy()
        return time.perf_counter() - started

    for trained in steps:  # compile
        seconds(trained, 0)
    ratios = []
    for number in range(pairs):
        turn = (0, 1) if number % 2 else (1, 0)
        times = {which: seconds(steps[which], number) for which in turn}
        ratios.append(times[0] / times[1])
        print(f"pair {number + 1}: {times[0]:.3f} s with, {times[1]:.3f} s without", flush=True)
    ratios.sort()
    # The median lies between the k-th smallest and the k-th largest ratio with a probability of at least 95 %.
    tail, k = 0.0, 0
    while tail + math.comb(pairs, k) / 2**pairs <= 0.025:
        tail += math.comb(pairs, k) / 2**pairs
        k += 1
    print(
        f"the watch costs {100 * (np.median(ratios) - 1):+.2f} % of a step, "
        f"95 % interval {100 * (ratios[k - 1] - 1):+.2f} % to {100 * (ratios[pairs - k] - 1):+.2f} %, {pairs} pairs"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
