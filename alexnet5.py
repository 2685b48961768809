"""AlexNet on MNIST, experiment 5: grouped conv4 and conv5.

Parent:   alexnet2.py
Change:   conv4 and conv5 run in two groups, each on half of the channels.
Protocol: plain SGD on the summed loss, 50 epochs, batches of 200 (common/training.py).
Article:  plateau ends in epoch 21, accuracy 0.301 there, 0.872 in 22, 0.988 in 50 (loss 37.98), no nan.
Ours:     plateau ends in epoch 26, accuracy 0.893 there, 0.983 in 50 (loss 46.13), no nan (mixed precision).
Diff:     diff alexnet2.py alexnet5.py
"""

from common.lrn import local_response_normalization
from common.run import run
import tensorflow as tf

n_classes = 10
n_fc1 = 6 * 6 * 256
n_fc2 = 4096
n_fc3 = 4096
dropout_rate = 0.5


def weight(name, shape):
    return tf.Variable(tf.random.truncated_normal(shape, mean=0.0, stddev=0.01), name=f"{name}/weights")


def bias(name, shape):
    return tf.Variable(tf.random.truncated_normal(shape, mean=0.005, stddev=0.1), name=f"{name}/biases")


class AlexNet(tf.Module):
    def __init__(self):
        super().__init__()
        self.weights = {
            "conv1": weight("conv1", [11, 11, 1, 96]),
            "conv2": weight("conv2", [5, 5, 96, 256]),
            "conv3": weight("conv3", [3, 3, 256, 384]),
            "conv4_1": weight("conv4_1", [3, 3, 384 // 2, 384 // 2]),
            "conv4_2": weight("conv4_2", [3, 3, 384 // 2, 384 // 2]),
            "conv5_1": weight("conv5_1", [3, 3, 384 // 2, 256 // 2]),
            "conv5_2": weight("conv5_2", [3, 3, 384 // 2, 256 // 2]),
            "fc1": weight("fc1", [n_fc1, n_fc2]),
            "fc2": weight("fc2", [n_fc2, n_fc3]),
            "output": weight("output", [n_fc3, n_classes]),
        }
        self.biases = {
            "conv1": bias("conv1", [96]),
            "conv2": bias("conv2", [256]),
            "conv3": bias("conv3", [384]),
            "conv4": bias("conv4", [384]),
            "conv5": bias("conv5", [256]),
            "fc1": bias("fc1", [n_fc2]),
            "fc2": bias("fc2", [n_fc3]),
            "output": bias("output", [n_classes]),
        }

    def __call__(self, images, dropout_seeds, training):
        """All layers by name, for images [batch, 227, 227, 1] and a pair of seeds [2, 2], one for each dropout.

        Dropout is on whether training or not, as in the article.
        """
        # conv1: [batch, 55, 55, 96]
        conv1 = tf.nn.conv2d(images, self.weights["conv1"], strides=4, padding="VALID")
        conv1 = tf.nn.bias_add(conv1, self.biases["conv1"])
        conv1 = tf.nn.relu(conv1)
        conv1 = local_response_normalization(conv1, depth_radius=2, alpha=2e-5, beta=0.75, bias=1.0)

        # pool1: [batch, 27, 27, 96]
        pool1 = tf.nn.max_pool2d(conv1, ksize=3, strides=2, padding="VALID")

        # conv2: [batch, 27, 27, 256]
        conv2 = tf.nn.conv2d(pool1, self.weights["conv2"], strides=1, padding="SAME")
        conv2 = tf.nn.bias_add(conv2, self.biases["conv2"])
        conv2 = tf.nn.relu(conv2)
        conv2 = local_response_normalization(conv2, depth_radius=2, alpha=2e-5, beta=0.75, bias=1.0)

        # pool2: [batch, 13, 13, 256]
        pool2 = tf.nn.max_pool2d(conv2, ksize=3, strides=2, padding="VALID")

        # conv3: [batch, 13, 13, 384]
        conv3 = tf.nn.conv2d(pool2, self.weights["conv3"], strides=1, padding="SAME")
        conv3 = tf.nn.bias_add(conv3, self.biases["conv3"])
        conv3 = tf.nn.relu(conv3)

        # conv4: [batch, 13, 13, 384]
        conv3_1, conv3_2 = tf.split(conv3, 2, axis=3)
        conv4_1 = tf.nn.conv2d(conv3_1, self.weights["conv4_1"], strides=1, padding="SAME")
        conv4_2 = tf.nn.conv2d(conv3_2, self.weights["conv4_2"], strides=1, padding="SAME")
        conv4 = tf.concat([conv4_1, conv4_2], axis=3)
        conv4 = tf.nn.bias_add(conv4, self.biases["conv4"])
        conv4 = tf.nn.relu(conv4)

        # conv5: [batch, 13, 13, 256]
        conv4_1, conv4_2 = tf.split(conv4, 2, axis=3)
        conv5_1 = tf.nn.conv2d(conv4_1, self.weights["conv5_1"], strides=1, padding="SAME")
        conv5_2 = tf.nn.conv2d(conv4_2, self.weights["conv5_2"], strides=1, padding="SAME")
        conv5 = tf.concat([conv5_1, conv5_2], axis=3)
        conv5 = tf.nn.bias_add(conv5, self.biases["conv5"])
        conv5 = tf.nn.relu(conv5)

        # pool5: [batch, 6, 6, 256]
        pool5 = tf.nn.max_pool2d(conv5, ksize=3, strides=2, padding="VALID")

        # fc1: [batch, 4096]
        fc1 = tf.reshape(pool5, [-1, n_fc1])
        fc1 = tf.add(tf.matmul(fc1, self.weights["fc1"]), self.biases["fc1"])
        fc1 = tf.nn.relu(fc1)
        fc1 = tf.nn.experimental.stateless_dropout(fc1, dropout_rate, seed=dropout_seeds[0], rng_alg="philox")

        # fc2: [batch, 4096]
        fc2 = tf.add(tf.matmul(fc1, self.weights["fc2"]), self.biases["fc2"])
        fc2 = tf.nn.relu(fc2)
        fc2 = tf.nn.experimental.stateless_dropout(fc2, dropout_rate, seed=dropout_seeds[1], rng_alg="philox")

        # output: [batch, 10]
        output = tf.add(tf.matmul(fc2, self.weights["output"]), self.biases["output"])
        return {
            "conv1": conv1, "pool1": pool1, "conv2": conv2, "pool2": pool2, "conv3": conv3, "conv4": conv4,
            "conv5": conv5, "pool5": pool5, "fc1": fc1, "fc2": fc2, "output": output,
        }  # fmt: skip


def naive_loss(logits, labels):
    """The article's method 1, summed over the batch: nan once a softmax entry underflows to 0."""
    # ensure_shape keeps the graph optimizer from fusing log and softmax, which would hide the nan.
    probabilities = tf.ensure_shape(tf.nn.softmax(logits), [None, n_classes])
    return -tf.reduce_sum(labels * tf.math.log(probabilities))


def fused_loss(logits, labels):
    """The article's method 2, but a sum, not a mean: equals method 1 where that is finite, and stays finite beyond."""
    return tf.reduce_sum(tf.nn.softmax_cross_entropy_with_logits(labels=labels, logits=logits))


def learning_rate(epoch):
    """The step size on the summed loss in an epoch counted from 0."""
    return 1e-4


if __name__ == "__main__":
    run(AlexNet, {"naive": naive_loss, "fused": fused_loss}, learning_rate)
