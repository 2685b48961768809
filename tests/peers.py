"""What the benchmark compares: training steps of one experiment, made of PyTorch, or of the article's own loop.

Each function takes a Job and returns step(number): it trains on the batch of that number and returns a function that
waits for its loss. All of them begin with the same values, see the same batches, gather and resize them as the scripts
do (the article's as the article did), and take loss and accuracy from one step.
"""

from typing import NamedTuple

from common import data
import numpy as np

BATCHES = 20  # as many different ones; then they come again


class Job(NamedTuple):
    experiment: int  # 2, 5 or 6
    precision: str  # float32 or mixed
    batch: int
    gpu: bool


def digits(batch):
    """Images uint8 [n, 28, 28] and labels [n] of MNIST, and the order int32 [BATCHES, batch] to take them in."""
    mnist = data.load()
    order = np.random.default_rng(0).integers(len(mnist.train_labels), size=(BATCHES, batch), dtype=np.int32)
    return mnist.train_images, mnist.train_labels, order


def initial(experiment):
    """Initial values of an experiment's variables, by name, in TensorFlow's layout; drawn without TensorFlow."""
    random = np.random.default_rng(0)
    groups = 2 if experiment == 5 else 1
    shapes = {"conv1": (11, 11, 1, 96), "conv2": (5, 5, 96, 256), "conv3": (3, 3, 256, 384)}
    shapes |= {"conv4": (3, 3, 384 // groups, 384), "conv5": (3, 3, 384 // groups, 256)}
    shapes |= {"fc1": (6 * 6 * 256, 4096), "fc2": (4096, 4096), "output": (4096, 10)}
    values = {}
    for name, (*inputs, outputs) in shapes.items():
        parts = [f"{name}_1", f"{name}_2"] if name in ("conv4", "conv5") and groups == 2 else [name]
        for part in parts:
            drawn = random.normal(0, 0.01, (*inputs, outputs // len(parts)))
            values[f"{part}/weights"] = drawn.astype(np.float32)
        values[f"{name}/biases"] = random.normal(0.005, 0.1, outputs).astype(np.float32)
        if experiment == 6 and name != "output":
            values[f"{name}/scale"], values[f"{name}/beta"] = np.ones(outputs, "f4"), np.zeros(outputs, "f4")
    return values


def article(job):
    """The article's loop: a graph and its Session, float32 images fed to it, and a second pass for the accuracy."""
    import tensorflow as tf

    from tests.reference import HIDDEN, Reference, learning_rate, resize

    tf.config.experimental.enable_tensor_float_32_execution(True)
    reference = Reference(job.experiment)
    reference.draw()
    images, labels, order = digits(job.batch)
    random, rate = np.random.default_rng(0), learning_rate(job.experiment, 0)

    def masks():
        return [2 * random.integers(2, size=(job.batch, size)).astype(np.float32) for _, _, size in HIDDEN]

    def step(number):
        indices = order[number % BATCHES]
        pixels, truth = resize(images[indices]), labels[indices]
        loss, _ = reference.step(pixels, truth, masks(), rate)
        reference.evaluate(pixels, truth, masks())
        return lambda: loss

    return step


def pytorch_network(values, experiment, device):
    """(parameters by name, forward) in PyTorch's layout, from values in TensorFlow's.

    forward(images [batch, 1, 227, 227], dropout) returns the logits.
    """
    import torch
    from torch.nn import functional

    def tensor(name, value):
        if value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
        return torch.tensor(value.T if name.startswith(("fc", "output")) else value, device=device)

    parameters = {name: tensor(name, value) for name, value in values.items()}
    if experiment == 5:
        for name in "conv4", "conv5":
            halves = [parameters.pop(f"{name}_{half}/weights") for half in (1, 2)]
            parameters[f"{name}/weights"] = torch.cat(halves)
    running = {
        name.partition("/")[0]: (torch.zeros_like(value), torch.ones_like(value))
        for name, value in parameters.items()
        if name.endswith("scale")
    }

    def activate(name, x, normalised=False):
        if experiment == 6:
            scale, beta = parameters[f"{name}/scale"], parameters[f"{name}/beta"]
            x = functional.batch_norm(x, *running[name], scale, beta, training=True, momentum=0.001, eps=1e-3)
        x = functional.relu(x)
        # PyTorch divides alpha by the number of channels.
        return functional.local_response_norm(x, 5, 5 * 2e-5, 0.75, 1.0) if normalised and experiment != 6 else x

    def convolve(name, x, stride=1, padding=0, groups=1, normalised=False, pooled=False):
        weights, biases = parameters[f"{name}/weights"], parameters[f"{name}/biases"]
        x = activate(name, functional.conv2d(x, weights, biases, stride, padding, groups=groups), normalised)
        return functional.max_pool2d(x, 3, 2) if pooled else x

    def connect(name, x):
        return functional.linear(x, parameters[f"{name}/weights"], parameters[f"{name}/biases"])

    def forward(images, dropout):
        groups = 2 if experiment == 5 else 1
        x = convolve("conv1", images, stride=4, normalised=True, pooled=True)
        x = convolve("conv2", x, padding=2, normalised=True, pooled=True)
        x = convolve("conv3", x, padding=1)
        x = convolve("conv4", x, padding=1, groups=groups)
        x = convolve("conv5", x, padding=1, groups=groups, pooled=True)
        x = x.permute(0, 2, 3, 1).flatten(1)  # fc1's weights expect TensorFlow's order
        for name in "fc1", "fc2":
            x = functional.dropout(activate(name, connect(name, x)), 0.5, training=dropout)
        return connect("output", x)

    return parameters, forward


def pytorch(job, channels_last=False, compiled=False):
    """Eager, or through torch.compile; autocast for mixed."""
    import torch
    from torch.nn import functional

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    device = "cuda" if job.gpu else "cpu"
    values = initial(job.experiment)
    parameters, forward = pytorch_network(values, job.experiment, device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for name, value in parameters.items():
        value = value.contiguous(memory_format=layout) if value.ndim == 4 else value
        parameters[name] = value.requires_grad_()
    images, labels, order = digits(job.batch)
    images, labels, order = (torch.tensor(array, device=device) for array in (images, labels, order))
    half = torch.float16 if job.gpu else torch.bfloat16
    optimizer = torch.optim.SGD(parameters.values(), lr=1e-4)

    def loss_of(indices):
        pixels = functional.interpolate(images[indices][:, None].float() / 255, (227, 227), mode="bilinear")
        truth = functional.one_hot(labels[indices].long(), 10).float()
        with torch.autocast(device, half, enabled=job.precision == "mixed"):
            logits = forward(pixels.contiguous(memory_format=layout), dropout=True)
        probabilities = torch.softmax(logits.float(), 1)
        correct = (probabilities.argmax(1) == truth.argmax(1)).sum()
        return -(truth * torch.log(probabilities)).sum(), correct

    loss_of = torch.compile(loss_of) if compiled else loss_of

    def step(number):
        optimizer.zero_grad()
        loss, correct = loss_of(order[number % BATCHES])
        loss.backward()
        optimizer.step()
        return lambda: (correct.item(), loss.item())[1]

    return step
