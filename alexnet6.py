"""AlexNet on MNIST, experiment 6: batch norm.

Parent:   alexnet2.py
Change:   batch norm between bias and ReLU of all but the output layer; no local response normalization.
Protocol: plain SGD on the summed loss, 50 epochs, batches of 200 (common/training.py).
Article:  loss 44.44, accuracy 0.979 after epoch 1; 10.76, 0.991 after epoch 50; no nan.
Ours:     loss 47.35, accuracy 0.988 after epoch 1; 16.14, 0.993 after epoch 50; no nan (mixed precision).
Diff:     diff alexnet2.py alexnet6.py
"""

from common.run import run
import tensorflow as tf

n_classes = 10
n_fc1 = 6 * 6 * 256
n_fc2 = 4096
n_fc3 = 4096
dropout_rate = 0.5
running_decay = 0.999
batch_norm_epsilon = 1e-3


def weight(name, shape):
    return tf.Variable(tf.random.truncated_normal(shape, mean=0.0, stddev=0.01), name=f"{name}/weights")


def bias(name, shape):
    return tf.Variable(tf.random.truncated_normal(shape, mean=0.005, stddev=0.1), name=f"{name}/biases")


def moment(name, value):
    return tf.Variable(value, trainable=False, name=name)


class AlexNet(tf.Module):
    def __init__(self):
        super().__init__()
        self.weights = {
            "conv1": weight("conv1", [11, 11, 1, 96]),
            "conv2": weight("conv2", [5, 5, 96, 256]),
            "conv3": weight("conv3", [3, 3, 256, 384]),
            "conv4": weight("conv4", [3, 3, 384, 384]),
            "conv5": weight("conv5", [3, 3, 384, 256]),
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
        sizes = {name: variable.shape for name, variable in self.biases.items() if name != "output"}
        self.scales = {name: tf.Variable(tf.ones(size), name=f"{name}/scale") for name, size in sizes.items()}
        self.betas = {name: tf.Variable(tf.zeros(size), name=f"{name}/beta") for name, size in sizes.items()}
        self.running_means = {name: moment(f"{name}/mean", tf.zeros(size)) for name, size in sizes.items()}
        self.running_variances = {name: moment(f"{name}/variance", tf.ones(size)) for name, size in sizes.items()}

    def batch_norm(self, name, inputs, training):
        """Normalise inputs [batch, ..., n] by their own moments, in evaluation too; the running ones are never read."""
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.scales[name], self.betas[name], epsilon=batch_norm_epsilon, is_training=True
        )
        if training:
            count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
            variance *= (count - 1) / count  # the operation's own is divided by count - 1
            for running, batch in (self.running_means[name], mean), (self.running_variances[name], variance):
                running.assign(running * running_decay + batch * (1 - running_decay))
        return outputs

    def __call__(self, images, dropout_seeds, training):
        """All layers by name, for images [batch, 227, 227, 1] and a pair of seeds [2, 2], one for each dropout.

        Dropout is on whether training or not, as in the article.
        """
        # conv1: [batch, 55, 55, 96]
        conv1 = tf.nn.conv2d(images, self.weights["conv1"], strides=4, padding="VALID")
        conv1 = tf.nn.bias_add(conv1, self.biases["conv1"])
        conv1 = self.batch_norm("conv1", conv1, training)
        conv1 = tf.nn.relu(conv1)

        # pool1: [batch, 27, 27, 96]
        pool1 = tf.nn.max_pool2d(conv1, ksize=3, strides=2, padding="VALID")

        # conv2: [batch, 27, 27, 256]
        conv2 = tf.nn.conv2d(pool1, self.weights["conv2"], strides=1, padding="SAME")
        conv2 = tf.nn.bias_add(conv2, self.biases["conv2"])
        conv2 = self.batch_norm("conv2", conv2, training)
        conv2 = tf.nn.relu(conv2)

        # pool2: [batch, 13, 13, 256]
        pool2 = tf.nn.max_pool2d(conv2, ksize=3, strides=2, padding="VALID")

        # conv3: [batch, 13, 13, 384]
        conv3 = tf.nn.conv2d(pool2, self.weights["conv3"], strides=1, padding="SAME")
        conv3 = tf.nn.bias_add(conv3, self.biases["conv3"])
        conv3 = self.batch_norm("conv3", conv3, training)
        conv3 = tf.nn.relu(conv3)

        # conv4: [batch, 13, 13, 384]
        conv4 = tf.nn.conv2d(conv3, self.weights["conv4"], strides=1, padding="SAME")
        conv4 = tf.nn.bias_add(conv4, self.biases["conv4"])
        conv4 = self.batch_norm("conv4", conv4, training)
        conv4 = tf.nn.relu(conv4)

        # conv5: [batch, 13, 13, 256]
        conv5 = tf.nn.conv2d(conv4, self.weights["conv5"], strides=1, padding="SAME")
        conv5 = tf.nn.bias_add(conv5, self.biases["conv5"])
        conv5 = self.batch_norm("conv5", conv5, training)
        conv5 = tf.nn.relu(conv5)

        # pool5: [batch, 6, 6, 256]
        pool5 = tf.nn.max_pool2d(conv5, ksize=3, strides=2, padding="VALID")

        # fc1: [batch, 4096]
        fc1 = tf.reshape(pool5, [-1, n_fc1])
        fc1 = tf.add(tf.matmul(fc1, self.weights["fc1"]), self.biases["fc1"])
        fc1 = self.batch_norm("fc1", fc1[:, tf.newaxis, tf.newaxis], training)[:, 0, 0]
        fc1 = tf.nn.relu(fc1)
        fc1 = tf.nn.experimental.stateless_dropout(fc1, dropout_rate, seed=dropout_seeds[0], rng_alg="philox")

        # fc2: [batch, 4096]
        fc2 = tf.add(tf.matmul(fc1, self.weights["fc2"]), self.biases["fc2"])
        fc2 = self.batch_norm("fc2", fc2[:, tf.newaxis, tf.newaxis], training)[:, 0, 0]
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
    # Batch norm takes the moments of the batch that it evaluates: the article's 1,000 images at once.
    run(AlexNet, {"naive": naive_loss, "fused": fused_loss}, learning_rate, evaluation_batch=1000)
