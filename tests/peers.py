"""The training steps that the benchmark compares: this repository's, the article's own loop, and PyTorch's.

Each function takes an experiment (2, 5 or 6), a precision, a batch size and whether to use the GPU, and returns
step(number): it trains on the batch of that number and returns a function that waits for its loss. All see the same
batches, gather and resize them as the scripts do (the article's as the article did), and compute loss and accuracy.
"""

import importlib

from common import data
import numpy as np

BATCHES = 20  # different ones, then they repeat


def digits(batch):
    """Images uint8 [n, 28, 28] and labels [n] of MNIST, and the order int32 [BATCHES, batch] to take them in."""
    mnist = data.load()
    order = np.random.default_rng(0).integers(len(mnist.train_labels), size=(BATCHES, batch), dtype=np.int32)
    return mnist.train_images, mnist.train_labels, order


def ours(experiment, precision, batch, gpu, xla=False):
    """The step of a script, without the loop around it: whole runs show what that adds."""
    from common.input import TensorFlowInput
    from common.session import open_session
    from common.step import compile_steps, dropout_seeds
    from common.tensorflow import tf

    script = importlib.import_module(f"alexnet{experiment}")
    device, _ = open_session("gpu" if gpu else "cpu", precision, xla=xla)
    images, labels, order = digits(batch)
    with tf.device(device):
        source = TensorFlowInput(images, labels)
        train, _ = compile_steps(script.AlexNet(), script.naive_loss, source, source, xla)
        rate = tf.constant(script.learning_rate(0))

    def step(number):
        with tf.device(device):
            return train(order[number % BATCHES], dropout_seeds(0, 0, number), rate).numpy

    return step


def article(experiment, precision, batch, gpu):
    """The article's loop: a graph and its Session, float32 images fed to it, and a second pass for the accuracy."""
    import tensorflow as tf

    from tests.reference import HIDDEN, Reference, learning_rate, resize

    tf.config.experimental.enable_tensor_float_32_execution(True)
    reference = Reference(experiment)
    reference.draw()
    images, labels, order = digits(batch)
    random, rate = np.random.default_rng(0), learning_rate(experiment, 0)

    def step(number):
        indices = order[number % BATCHES]
        pixels, truth = resize(images[indices]), labels[indices]
        masks = [2 * random.integers(2, size=(batch, size)).astype(np.float32) for _, _, size in HIDDEN]
        loss, _ = reference.step(pixels, truth, masks, rate)
        reference.evaluate(pixels, truth, masks)
        return lambda: loss

    return step


def pytorch_network(experiment):
    """The network of an experiment in PyTorch: images [batch, 1, 227, 227] to logits [batch, 10]."""
    from torch import nn

    groups, batch_norm = 2 if experiment == 5 else 1, experiment == 6

    def convolution(inputs, outputs, size, pool=False, local_response=False, **options):
        yield nn.Conv2d(inputs, outputs, size, **options)
        if batch_norm:
            yield nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.001)
        yield nn.ReLU()
        if local_response and not batch_norm:
            yield nn.LocalResponseNorm(5, 5 * 2e-5, 0.75, 1.0)  # PyTorch divides alpha by the number of channels
        if pool:
            yield nn.MaxPool2d(3, 2)

    def connected(inputs, outputs):
        yield nn.Linear(inputs, outputs)
        if batch_norm:
            yield nn.BatchNorm1d(outputs, eps=1e-3, momentum=0.001)
        yield from (nn.ReLU(), nn.Dropout())

    return nn.Sequential(
        *convolution(1, 96, 11, stride=4, local_response=True, pool=True),
        *convolution(96, 256, 5, padding=2, local_response=True, pool=True),
        *convolution(256, 384, 3, padding=1),
        *convolution(384, 384, 3, padding=1, groups=groups),
        *convolution(384, 256, 3, padding=1, groups=groups, pool=True),
        nn.Flatten(),
        *connected(256 * 6 * 6, 4096),
        *connected(4096, 4096),
        nn.Linear(4096, 10),
    )


def pytorch(experiment, precision, batch, gpu, channels_last=False, compiled=False):
    """Eager, or through torch.compile; autocast for mixed."""
    import torch
    from torch.nn import functional

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    device, half = ("cuda", torch.float16) if gpu else ("cpu", torch.bfloat16)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = pytorch_network(experiment).to(device, memory_format=layout)
    images, labels, order = (torch.tensor(array, device=device) for array in digits(batch))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)

    def loss_of(indices):
        pixels = functional.interpolate(images[indices][:, None].float() / 255, (227, 227), mode="bilinear")
        truth = functional.one_hot(labels[indices].long(), 10).float()
        with torch.autocast(device, half, enabled=precision == "mixed"):
            logits = network(pixels.contiguous(memory_format=layout))
        probabilities = torch.softmax(logits.float(), 1)
        correct = (probabilities.argmax(1) == truth.argmax(1)).sum()
        return -(truth * torch.log(probabilities)).sum(), correct

    loss_of = torch.compile(loss_of) if compiled else loss_of

    def step(number):
        optimizer.zero_grad()
        loss, correct = loss_of(order[number % BATCHES])
        loss.backward()
        optimizer.step()
        return lambda: (correct.item(), loss.item())

    return step
