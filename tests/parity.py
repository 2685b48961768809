"""Each script against the article's computation in tests/reference.py: same initial values, same digits, same masks.

python -m tests.parity             the parity table
python -m tests.parity --mixed     the script in --precision mixed on a CPU against the reference in float32
python -m tests.parity --mistakes  mistakes planted in the scripts, and the comparison that catches each
"""

import contextlib
import functools
import gc
import importlib
import linecache
from pathlib import Path
import types
from typing import NamedTuple

from common import data
from common.cli import Parser
from common.session import open_session
from common.step import BatchMetrics, compile_steps
from common.tensorflow import tf
import numpy as np

from tests.reference import BATCH_NORM, DEFAULT_VALUES, Reference, learning_rate, resize

ROOT = Path(__file__).parent.parent
STEPS = 5
BATCH = 4
# The bound on every relative error. Two things are measured differently, both in experiments 6 and 7:
# - A bias before batch norm has the gradient 0, of which rounding leaves noise; its error is relative to the summed
#   magnitude of the terms that cancel.
# - A scale or beta moves by few units in its last place, so that one rounding can exceed the bound; rounded_bound
#   gives its bound.
# There the five steps are compared one by one, each from the script's own weights. Batch norm makes the first steps
# chaotic: from the article's values, 1e-7 of the weights changes the sum of five updates by 80 to 90 % even in float64,
# as ReLU and pooling switch, and float32 by itself puts the first gradients 3 % off (results/parity.txt). Script and
# reference round alike in the forward pass; in the backward pass they add in another order, which is enough.
BOUND = 1e-4
# The same with --precision mixed: bfloat16 rounds by up to 2**-8 both inputs and outputs of the products of eight
# layers, forward and backward.
MIXED_BOUND = 32 * 2.0**-8
# With He-scaled values the pixels reach 16, not 1: without LRN after conv1 the logits then change by 3e-2, where
# the article's values would let them change by 5e-8.
PIXEL_SCALE = 16
# The step size of the one step from which a script's gradient is read: so large that the old weight vanishes in it.
PROBE_RATE = 2.0**30


class Setting(NamedTuple):
    values: str  # "article" or "he"
    loss: str  # "naive" or "fused"
    dropout: bool

    def __str__(self):
        return f"{self.values:7} {self.loss} {'masks' if self.dropout else 'off':5}"


def settings(experiment):
    """The settings in which an experiment is compared."""
    losses = {"article": ("naive", "fused") if experiment in DEFAULT_VALUES else ("naive",), "he": ("naive",)}
    return [Setting(values, loss, dropout) for values in losses for loss in losses[values] for dropout in (False, True)]


def is_nan(experiment, setting):
    """Whether everything is NaN after one step, so that only logits and NaN patterns are comparable."""
    return experiment in DEFAULT_VALUES and setting[:2] == ("article", "naive")


class Batch(NamedTuple):
    """pixels float32 [batch, 227, 227, 1], labels uint8 [batch], dropout seeds int64 [2, 2], masks of 0 and 2."""

    pixels: np.ndarray
    labels: np.ndarray
    seeds: np.ndarray
    masks: list


def dropout_masks(seeds, size, dropout=True):
    """The two masks [size, 4096] that the scripts' dropout draws from these seeds; ones where it is off."""
    ones = tf.ones([size, 4096])
    if not dropout:
        return [ones.numpy()] * 2
    return [tf.nn.experimental.stateless_dropout(ones, 0.5, seed=seed, rng_alg="philox").numpy() for seed in seeds]


def fed(batch):
    """What a batch feeds to the reference."""
    return batch.pixels, batch.labels, batch.masks


@functools.cache
def draw_batches(scale, dropout, size=BATCH):
    mnist, found = data.load(), []
    digits = np.concatenate([mnist.train_images[: STEPS * size], mnist.test_images[:size]])
    labels = np.concatenate([mnist.train_labels[: STEPS * size], mnist.test_labels[:size]])
    for number in range(STEPS + 1):
        part, seeds = slice(number * size, (number + 1) * size), np.array([[number, 1], [number, 2]])
        pixels = np.float32(scale) * resize(digits[part])
        found.append(Batch(pixels, labels[part], seeds, dropout_masks(seeds, size, dropout)))
    return found


def batches(setting):
    """A list of STEPS training batches and one of the test set, each with seeds of its own."""
    return draw_batches(PIXEL_SCALE if setting.values == "he" else 1, setting.dropout)


@functools.lru_cache(1)  # of experiments that follow each other many have the same shapes
def he_values(shapes):
    """Weights N(0, 2 / fan in), biases and betas N(0, 0.1), scales N(1, 0.1), for (variable name, shape) pairs.

    The weights of the last three layers are divided by 4, 4 and 16, or PIXEL_SCALE would make the training explode.
    """
    random, values = np.random.default_rng(0), {}
    for name, shape in sorted(shapes):
        layer, kind = name.split("/")
        start = 1 if kind in ("scale", "running_variance") else 0
        values[name] = np.full(shape, start, np.float32)
        if kind == "weights":
            stddev = np.sqrt(2 / np.prod(shape[:-1])) / {"fc1": 4, "fc2": 4, "output": 16}.get(layer, 1)
            values[name] = random.standard_normal(shape, np.float32) * np.float32(stddev)
        elif not kind.startswith("running"):
            values[name] += random.standard_normal(shape, np.float32) * np.float32(0.1)
    return values


class Pixels:
    """An input whose batches are already (pixels, labels)."""

    def load(self, batch):
        return batch


class Script:
    """A script's network under its real training step. Values are NumPy arrays, by the reference's names."""

    def __init__(self, module, network=None):
        self.module, self.network = module, network or module.AlexNet()
        attributes = {
            "weights": "weights",
            "biases": "biases",
            "scales": "scale",
            "betas": "beta",
            "running_means": "running_mean",
            "running_variances": "running_variance",
        }
        self.variables = {
            f"{layer}/{kind}": variable
            for attribute, kind in attributes.items()
            for layer, variable in getattr(self.network, attribute, {}).items()
        }
        self.compiled = {}

    def assign(self, values):
        for name, value in values.items():
            self.variables[name].assign(value)

    def read(self, name):
        return self.variables[name].numpy()

    def values(self):
        return {name: self.read(name) for name in self.variables}

    @contextlib.contextmanager
    def under(self, setting):
        """The functions (logits, train, evaluate) of a setting, to be called inside the block only.

        All take a batch, and train the learning rate; logits returns [batch, 10], the others a BatchMetrics.
        """
        module, kept = self.module, self.module.dropout_rate
        key = setting.loss, setting.dropout
        if key not in self.compiled:
            loss = {"naive": module.naive_loss, "fused": module.fused_loss}[setting.loss]
            self.compiled[key] = compile_steps(self.network, loss, Pixels(), Pixels(), xla=False)
        compiled_train, compiled_evaluate = self.compiled[key]

        def tensors(batch):
            return (tf.constant(batch.pixels), tf.constant(batch.labels)), tf.constant(batch.seeds, tf.int64)

        def logits(batch):
            (pixels, _), seeds = tensors(batch)
            return self.network(pixels, seeds, training=False)["output"].numpy()

        def train(batch, rate):
            return BatchMetrics.from_vector(compiled_train(*tensors(batch), tf.constant(rate, tf.float32)))

        def evaluate(batch):
            return BatchMetrics.from_vector(compiled_evaluate(*tensors(batch)))

        module.dropout_rate = kept if setting.dropout else 0
        try:
            yield logits, train, evaluate
        finally:
            module.dropout_rate = kept


def relative_error(value, expected, start=None, scale=None):
    """||value - expected|| / ||expected - start||, or / ||scale||, over what is finite.

    Infinite if the two are not finite in different places or ways. NaN if there is nothing to compare: nothing is
    finite, or expected equals start.
    """
    value, expected = np.ravel(value), np.ravel(expected)
    origin = np.broadcast_to(np.float32(0), expected.shape) if start is None else np.ravel(start)
    if np.array_equal(value, expected):
        return np.nan if scale is None and np.array_equal(expected, origin) else 0.0
    squares, finite, size = np.zeros(2), 0, 2**16  # in chunks that stay in the cache
    for first in range(0, len(value), size):
        ours, theirs, old = (array[first : first + size].astype(np.float64) for array in (value, expected, origin))
        if not np.isfinite(ours).all() or not np.isfinite(theirs).all():
            good = np.isfinite(theirs)
            if not np.array_equal(ours[~good], theirs[~good], equal_nan=True) or not np.isfinite(ours[good]).all():
                return np.inf
            ours, theirs, old = ours[good], theirs[good], old[good]
        ours -= theirs
        theirs -= old
        squares += [np.einsum("i,i", part, part) for part in (ours, theirs)]  # OpenBLAS would start threads
        finite += len(theirs)
    if not finite:
        return np.nan
    error, length = np.sqrt(squares)
    length = length if scale is None else np.linalg.norm(scale)
    if not length:
        return np.inf if error else np.nan
    return float(error) / float(length)


def rounded_bound(start, expected):
    """The bound on the error of an update that float32 weights of this size can show, at least BOUND.

    Of two updates that differ by BOUND, the share BOUND * |update| / ulp of the elements rounds to neighbours, an ulp
    apart: together sqrt(BOUND * ||update|| * ||ulp||).
    """
    ulp = np.spacing(np.maximum(np.abs(start), np.abs(expected)))
    return BOUND + np.sqrt(BOUND * np.linalg.norm(ulp) / np.linalg.norm(expected - start))


class Error(NamedTuple):
    """A relative error, its bound, and what it is the error of."""

    size: float
    bound: float
    name: str

    @property
    def passes(self):
        return self.size <= self.bound

    def __str__(self):
        return f"{self.name} {self.size:.1e}, bound {self.bound:.1e}"


def worst(errors):
    """The error that is the largest share of its bound, NaN before all others."""
    return max(errors, key=lambda error: (np.isnan(error.size), error.size / error.bound))


def logits_error(script, reference, setting, batch):
    """The error of the network's output for one batch, with the values that both sides have."""
    expected = reference.differentiate(*fed(batch), setting.loss, gradients=False)[0]
    with script.under(setting) as (logits, _, _):
        return Error(relative_error(logits(batch), expected), BOUND, "logits")


def update_errors(values, reference, start, scales):
    """The errors of what a script made of start: (of the trained variables, of the running ones)."""
    trained, running = [], []
    for name, value in values.items():
        expected, bound = reference.read(name), BOUND
        if name.endswith(("scale", "beta")) and np.isfinite(expected).all():
            bound = rounded_bound(start[name], expected)
        error = Error(relative_error(value, expected, start[name], scales.get(name)), bound, name)
        (running if "running" in name else trained).append(error)
    return trained, running


def accuracy_error(measured, expected, batch):
    """The difference; NaN if logits are not finite: it then depends on the order in which infinite terms are added."""
    return abs(measured.correct / len(batch.labels) - expected) if measured.finite else np.nan


def evaluation_errors(script, reference, batch, evaluate, loss):
    """The errors of loss and accuracy of an evaluation; "frozen" is infinite if it moved a running moment."""
    before = {name: script.read(name) for name in script.variables if "running" in name}
    measured = evaluate(batch)
    frozen = all(np.array_equal(script.read(name), value, equal_nan=True) for name, value in before.items())
    expected, accuracy = reference.evaluate(*fed(batch), loss)
    return [
        Error(relative_error(measured.loss, expected), BOUND, "loss"),
        Error(accuracy_error(measured, accuracy, batch), BOUND, "accuracy"),
        Error(0.0 if frozen else np.inf, BOUND, "frozen"),
    ]


def probed(script, values, name):
    """The gradient of a variable, after one step of PROBE_RATE from values."""
    gradient = values[name] - script.read(name)
    gradient /= np.float32(PROBE_RATE)
    return gradient


def schedule_error(module, experiment):
    """The largest relative error of the learning rate in the first 80 epochs."""
    return max(abs(module.learning_rate(n) / learning_rate(experiment, n) - 1) for n in range(80))


def compare(script, reference, values, setting, steps=STEPS, gradient=True):
    """All errors between a script and the reference, from the same initial values: lists of Error, by column.

    Columns: logits, loss, accuracy, gradient (if asked for), update 1, update 5 (of 5 steps), running (where there is
    batch norm), evaluation (where dropout is on).
    """
    experiment, found = reference.experiment, {"running": [], "loss": [], "accuracy": []}
    *training, test = batches(setting)
    first, stepwise = training[0], experiment in BATCH_NORM
    with script.under(setting) as (logits, train, evaluate):
        script.assign(values)
        reference.assign(values)
        expected, _, _, gradients, terms = reference.differentiate(*fed(first), setting.loss, gradient)
        found["logits"] = [Error(relative_error(logits(first), expected), BOUND, "logits")]
        if gradient:
            train(first, PROBE_RATE)
            found["gradient"] = [
                Error(relative_error(probed(script, values, name), gradients[name], None, terms.get(name)), BOUND, name)
                for name in list(gradients)
            ]
        del gradients
        script.assign(values)
        reference.assign(values)
        start = reached = values
        single = []
        for number, batch in enumerate(training[:steps], start=1):
            if stepwise and number > 1:
                start = reached
                reference.assign(start)
            measured = train(batch, script.module.learning_rate(0))
            rate = learning_rate(experiment, 0)
            loss, accuracy = reference.step(*fed(batch), rate, setting.loss)
            found["loss"].append(Error(relative_error(measured.loss, loss), BOUND, f"step {number}"))
            found["accuracy"].append(Error(accuracy_error(measured, accuracy, batch), BOUND, f"step {number}"))
            if stepwise or number in (1, STEPS):
                scales = {name: rate * term for name, term in terms.items()}
                reached = script.values()
                trained, running = update_errors(reached, reference, start, scales)
                single += trained
                found["running"] += running
                if number in (1, STEPS):
                    found[f"update {number}"] = list(single) if stepwise else trained
        if setting.dropout:
            reference.assign(script.values())
            found["evaluation"] = evaluation_errors(script, reference, test, evaluate, setting.loss)
    return {column: errors for column, errors in found.items() if errors}


class Pair:
    """A script, its reference, and the initial values of both kinds."""

    def __init__(self, experiment):
        self.experiment = experiment
        tf.random.set_seed(0)
        self.module = importlib.import_module(f"alexnet{experiment}")
        self.script, self.reference = Script(self.module), Reference(experiment)
        article = self.script.values()
        shapes = tuple((name, value.shape) for name, value in article.items())
        self.values = {"article": article, "he": he_values(shapes)}

    def compare(self, setting, steps=STEPS, gradient=True):
        steps = 1 if is_nan(self.experiment, setting) else steps
        return compare(self.script, self.reference, self.values[setting.values], setting, steps, gradient)

    def with_mistake(self, mistake, every_column):
        """Errors by column after a mistake is planted in the script: over one step, without gradients.

        If not every_column, only the column that must catch it.
        """
        module, values = mistake.plant(self.module), self.values[mistake.setting.values]
        found = {"schedule": [Error(schedule_error(module, self.experiment), BOUND, "learning rate")]}
        if mistake.column == "schedule" and not every_column:
            return found
        network, kept = self.script.network, type(self.script.network)
        network.__class__ = module.AlexNet  # the variables stay: only the code is another
        script = Script(module, network)
        try:
            if mistake.column == "logits" and not every_column:
                script.assign(values)
                self.reference.assign(values)
                first = batches(mistake.setting)[0]
                return {"logits": [logits_error(script, self.reference, mistake.setting, first)]}
            return compare(script, self.reference, values, mistake.setting, 1, gradient=False) | found
        finally:
            network.__class__ = kept

    def close(self):
        self.reference.close()
        del self.script, self.reference, self.values
        gc.collect()


class Mistake(NamedTuple):
    """A mistake in a script's text: old is replaced by new everywhere; column is the comparison that must catch it."""

    name: str
    experiment: int
    column: str
    old: str
    new: str
    setting: Setting = Setting("he", "naive", True)

    def plant(self, module):
        """The module that the edited text makes."""
        path = Path(module.__file__)
        text = path.read_text()
        assert self.old in text, f"{path.name} no longer has this text: {self.old}"
        text, name = text.replace(self.old, self.new), f"{path.stem}, planted: {self.name}"
        # AutoGraph rereads a function's source by its file's name: under the script's it would undo the mistake.
        linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
        planted = types.ModuleType(name)
        exec(compile(text, name, "exec"), planted.__dict__)
        return planted


def lines(*statements):
    """Statements as they follow each other in a network, from the first one's start."""
    return "\n        ".join(statements)


BIAS = 'conv2 = tf.nn.bias_add(conv2, self.biases["conv2"])'
NORM = 'conv2 = self.batch_norm("conv2", conv2, training)'
RELU1, RELU2 = "conv1 = tf.nn.relu(conv1)", "conv2 = tf.nn.relu(conv2)"
LRN = "conv1 = local_response_normalization(conv1, depth_radius=2, alpha=2e-5, beta=0.75, bias=1.0)"
OWN = "is_training=True"
RUNNING = "is_training=training, mean=self.running_means[name], variance=self.running_variances[name]"
HALVES = "tf.split(conv3, 2, axis=3)"
POOL1, SAME = 'conv1, ksize=3, strides=2, padding="VALID"', 'conv1, ksize=3, strides=2, padding="SAME"'
FUSED = Setting("he", "fused", True)
MISTAKES = (
    Mistake("a mean instead of a sum", 2, "loss", "return -tf.reduce_sum(", "return -tf.reduce_mean("),
    Mistake("the same in the fused loss", 2, "loss", "return tf.reduce_sum(", "return tf.reduce_mean(", FUSED),
    Mistake("LRN before ReLU", 2, "logits", lines(RELU1, LRN), lines(LRN, RELU1)),
    Mistake("LRN's alpha divided by 5", 2, "logits", "alpha=2e-5", "alpha=2e-5 / 5"),
    Mistake("no LRN after conv1", 2, "logits", lines(RELU1, LRN), RELU1),
    Mistake("SAME for VALID in conv1", 2, "logits", 'strides=4, padding="VALID"', 'strides=4, padding="SAME"'),
    Mistake("SAME for VALID in pool1", 2, "logits", POOL1, SAME),
    Mistake("one seed for both dropouts", 2, "logits", "seed=dropout_seeds[1]", "seed=dropout_seeds[0]"),
    Mistake("evaluation without dropout", 2, "evaluation", "dropout_rate, seed", "dropout_rate * training, seed"),
    Mistake("learning rate times ten", 2, "update 1", "return 1e-4", "return 1e-3"),
    Mistake("learning rate drops at 60", 3, "schedule", "if epoch < 50", "if epoch < 60"),
    Mistake("groups swapped in conv4", 5, "logits", HALVES, f"{HALVES}[::-1]"),
    Mistake("outputs swapped in conv5", 5, "logits", "tf.concat([conv5_1, conv5_2]", "tf.concat([conv5_2, conv5_1]"),
    Mistake("batch norm before the bias", 6, "logits", lines(BIAS, NORM), lines(NORM, BIAS)),
    Mistake("batch norm after ReLU", 6, "logits", lines(NORM, RELU2), lines(RELU2, NORM)),
    Mistake("epsilon 1e-5", 6, "logits", "batch_norm_epsilon = 1e-3", "batch_norm_epsilon = 1e-5"),
    Mistake("decay 0.99", 6, "running", "running_decay = 0.999", "running_decay = 0.99"),
    Mistake("moments moved in evaluation", 6, "evaluation", "if training:", "if True:"),
    Mistake("evaluation by running moments", 6, "evaluation", OWN, RUNNING),
)


# --- initial values ---


def sampled(draw, first, least=10_000, most=50_000):
    """At most `most` values of a tensor that was drawn, [any]; a small one is drawn again until there are `least`."""
    drawn = [np.ravel(first)]
    while sum(map(len, drawn)) < least:
        drawn.append(np.ravel(draw()))
    values = np.concatenate(drawn)
    return values[:: -(-len(values) // most)]


def distribution_distance(ours, theirs):
    """The largest distance of two empirical distribution functions, and what chance exceeds once in 10^6."""
    ours, theirs = np.sort(ours), np.sort(theirs)
    points = np.concatenate([ours, theirs])
    shares = [np.searchsorted(values, points, side="right") / len(values) for values in (ours, theirs)]
    return np.max(np.abs(shares[0] - shares[1])), 2.69 * np.sqrt(1 / len(ours) + 1 / len(theirs))


def initial_errors(module, values, reference):
    """Error of the distribution of each of a script's initial weights and biases, against graph mode's.

    values are those of the script's network; its small tensors are drawn again by its functions.
    """
    reference.draw()
    errors = []
    for name, value in values.items():
        layer, kind = name.split("/")
        if kind not in ("weights", "biases"):
            continue
        function = {"weights": module.weight, "biases": module.bias}[kind]
        ours = sampled(lambda: function(layer, value.shape).numpy(), value)  # noqa: B023
        theirs = sampled(lambda: reference.redraw(name), reference.read(name))  # noqa: B023
        errors.append(Error(*distribution_distance(ours, theirs), name))
    return errors


# --- tables ---

COLUMNS = ("logits", "loss", "gradient", "update 1", "update 5", "running", "evaluation")


def cell(errors):
    """The worst error of a column, starred where its bound is not BOUND; NaN after it where some are NaN."""
    finite = [error for error in errors if not np.isnan(error.size)]
    shown = []
    if finite:
        error = worst(finite)
        shown.append(f"{error.size:.0e}{'*' if error.bound != BOUND else ''}" if error.size else "0")
    if len(finite) < len(errors):
        shown.append("NaN")
    return " ".join(shown)


def row(label, cells):
    print(f"{label:22}" + "".join(f"{text:>11}" for text in cells), flush=True)


def print_parity():
    """Print one row for each experiment and setting."""
    print("Relative errors of each script against the graph-mode reference, the worst tensor of each kind.")
    row("", COLUMNS)
    same = skipped = total = 0
    for experiment in range(1, 8):
        pair = Pair(experiment)
        for setting in settings(experiment):
            found = pair.compare(setting)
            row(f"{experiment} {setting}", [cell(found.get(column, [])) for column in COLUMNS])
            same += sum(error.size == 0 for error in found["accuracy"])
            skipped += sum(np.isnan(error.size) for error in found["accuracy"])
            total += len(found["accuracy"])
        pair.close()
    print(f"Accuracy: the same in {same} of {total} training steps; logits not finite, so not compared, in {skipped}.")
    print("NaN: in both and in the same places.  *: the bound is that of rounded_bound, else it is 1e-4.")


def mixed_errors(experiment):
    """{setting: {column: the largest error}} of the first step, in a process of --precision mixed."""
    pair, found = Pair(experiment), {}
    for setting in settings(experiment):
        if setting.dropout and not is_nan(experiment, setting):
            errors = compare(pair.script, pair.reference, pair.values[setting.values], setting, steps=1)
            sizes = {column: [error.size for error in errors[column]] for column in ("logits", "gradient", "update 1")}
            found[setting] = {column: float(np.nanmax(size)) for column, size in sizes.items()}
    pair.close()
    return found


def print_mixed(experiments=range(1, 8)):
    open_session("cpu", "mixed")
    print(f"Largest relative errors of a step in bfloat16, to be below {MIXED_BOUND}; without those that are NaN")
    row("", ("logits", "gradient", "update 1"))
    for experiment in experiments:
        for setting, errors in mixed_errors(experiment).items():
            row(f"{experiment} {setting}", [f"{error:.0e}" for error in errors.values()])


def print_mistakes():
    """Print one row for each planted mistake: the comparison meant to catch it, and all others that do."""
    pair = None
    print(f"{'':2}{'mistake':32}{'caught by':12}{'error':>9}{'bound':>9}  also by")
    for mistake in MISTAKES:
        if pair is None or pair.experiment != mistake.experiment:
            if pair is not None:
                pair.close()
            pair = Pair(mistake.experiment)
        found = pair.with_mistake(mistake, every_column=True)
        failed = [column for column, errors in found.items() if not worst(errors).passes]
        error = worst(found[mistake.column])
        by = mistake.column if mistake.column in failed else "NOT CAUGHT"
        also = ", ".join(column for column in failed if column != mistake.column)
        print(f"{mistake.experiment} {mistake.name:32}{by:12}{error.size:9.1e}{error.bound:9.1e}  {also}", flush=True)


def main():
    parser = Parser(__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--mixed", action="store_true", help="scripts in --precision mixed")
    which.add_argument("--mistakes", action="store_true", help="planted mistakes")
    args = parser.parse_args()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    tf.get_logger().setLevel("ERROR")  # no warnings on how many functions are compiled
    if args.mistakes:
        print_mistakes()
    elif args.mixed:
        print_mixed()
    else:
        print_parity()


if __name__ == "__main__":
    main()
