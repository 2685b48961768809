"""The loop over epochs: training steps, evaluation, and what a run knows of itself."""

import dataclasses
import datetime
import math
import textwrap
import time

from common.input import OpenCVInput, TensorFlowInput
from common.results import Iteration, Row
from common.session import tf
from common.step import LAYERS, Measured, compile_steps
import numpy as np
from tqdm import tqdm

EVALUATION_BATCH = 1000  # the article's; batch norm takes its moments over it
EVALUATION_PART = 200  # what goes through a network without batch norm at once, to need no more memory than a step
EXPLOSION = 1e4  # a convention: the logit gap from which a NaN loss is called an explosion


def shuffled(seed, epoch, size, batch_size):
    """The order of an epoch counted from 0: int32 [size // batch_size, batch_size], a function of its arguments."""
    order = np.random.default_rng([seed, epoch]).permutation(size).astype(np.int32)
    return order[: size // batch_size * batch_size].reshape(-1, batch_size)


def dropout_seeds(seed, epoch, iteration):
    """int64 [2, 2]: the seeds of the two dropouts of an iteration, a function of its arguments."""
    return np.random.SeedSequence([seed, epoch, iteration]).generate_state(4, np.uint64).astype(np.int64).reshape(2, 2)


def verdict(measured, index, label, where):
    """Why the loss is not finite, as a dict for the record; index is that of the image in its data set."""
    explosion = not measured.finite or measured.gap >= EXPLOSION
    return {
        "cause": "explosion" if explosion else "log(0)",
        **where,
        "logit_gap": measured.gap,
        "softmax_underflow": bool(measured.underflow),
        "image": index,
        "label": label,
        "largest_activation": dict(zip(LAYERS, measured.largest)),
    }


def describe(verdict):
    """The verdict in a few lines of at most 80 columns."""
    place = "evaluation" if verdict["iteration"] is None else f"iteration {verdict['iteration']}"
    gap = f"{verdict['logit_gap']:.4g}"
    apart = f"the logits are {gap} apart" if math.isfinite(verdict["logit_gap"]) else "the logits are not finite"
    if verdict["cause"] == "log(0)":
        apart += ", so that a softmax entry is 0"
    largest = ", ".join(f"{name} {value:.3g}" for name, value in verdict["largest_activation"].items())
    lines = [
        f"epoch {verdict['epoch']}, {place}: the loss is not finite, by {verdict['cause']}",
        f"{apart} at image {verdict['image']}, a {verdict['label']}",
        *textwrap.wrap(f"largest activations: {largest}", 76),
    ]
    return "\n  ".join(lines)


@dataclasses.dataclass
class State:
    """Where a run stands, all of it but the network's variables; this is what a checkpoint keeps."""

    rows: list = dataclasses.field(default_factory=list)  # of Row, the epochs that are done
    trace: list = dataclasses.field(default_factory=list)  # of Iteration
    seen: list = dataclasses.field(default_factory=list)  # of Measured, the iterations of the epoch in hand
    cause: dict | None = None  # why the loss first became non-finite
    nan_weights: dict | None = None  # {"epoch", "iteration"}, both counted from 1
    epoch_seconds: float = 0.0  # spent on the epoch in hand
    wall_seconds: float = 0.0
    started: str | None = None

    @classmethod
    def of(cls, kept):
        """The state from what JSON made of its dataclasses.asdict."""
        kept = {**kept, "rows": [Row(*row) for row in kept["rows"]]}
        kept["trace"] = [Iteration(*row) for row in kept["trace"]]
        kept["seen"] = [Measured(*measured[:-1], tuple(measured[-1])) for measured in kept["seen"]]
        return cls(**kept)


def rounded(value):
    """A float with the fewest digits that tell its float32 from the next."""
    return float(str(np.float32(value)))


def report(row, epochs):
    """One line an epoch, in the article's manner."""
    seconds = "" if row.seconds is None else f", {row.seconds:.0f} s"
    print(
        f"epoch {row.epoch}/{epochs}, loss {row.loss:.8g}, testing accuracy {row.accuracy:.4g}, "
        f"training {row.train_accuracy:.3f}{seconds}",
        flush=True,
    )


class Training:
    """The loop of one run.

    save(step, state)  keeps a checkpoint; called after each epoch, every --save-minutes and when asked to stop
    stop               a Stop, or anything with a signal that is None until the run shall end
    """

    def __init__(self, network, loss, learning_rate, dataset, args, state, save, stop):
        make_input = {"tensorflow": TensorFlowInput, "opencv": OpenCVInput}[args.resize]
        self.args, self.learning_rate, self.dataset, self.state = args, learning_rate, dataset, state
        self.save_checkpoint, self.stop = save, stop
        self.train_input = make_input(dataset.train_images, dataset.train_labels)
        self.test_input = make_input(dataset.test_images, dataset.test_labels)
        self.train, self.evaluate_batch = compile_steps(network, loss, self.train_input, self.test_input, args.xla)
        self.iterations = len(dataset.train_labels) // args.batch_size
        self.evaluation_batch = EVALUATION_BATCH if hasattr(network, "running_means") else EVALUATION_PART
        self.steps_done, self.step_seconds = 0, 0.0
        self.clock = self.saved = time.perf_counter()

    @property
    def epoch(self):
        """The epoch in hand, counted from 0."""
        return len(self.state.rows)

    def count_time(self):
        now = time.perf_counter()
        self.state.epoch_seconds += now - self.clock
        self.state.wall_seconds += now - self.clock
        self.clock = now

    def save(self):
        self.count_time()
        self.saved = self.clock
        self.save_checkpoint(self.epoch * (self.iterations + 1) + len(self.state.seen), self.state)

    def watch(self, measured, order, labels, iteration):
        """Note, and print, why the loss is not finite, the first time that it is not."""
        if self.state.cause is None and not math.isfinite(measured.loss):
            index = int(order[int(measured.image)])
            where = {"epoch": self.epoch + 1, "iteration": iteration}
            self.state.cause = verdict(measured, index, int(labels[index]), where)
            tqdm.write(describe(self.state.cause))

    def train_epoch(self):
        """Go through the shuffled training set from where the state stands, adding to state.seen.

        Ends early when asked to stop, and once the weights are NaN: they stay so.
        """
        args, state, seen = self.args, self.state, self.state.seen
        order = shuffled(args.seed, self.epoch, len(self.dataset.train_labels), args.batch_size)
        rate = tf.constant(self.learning_rate(self.epoch), tf.float32)
        bar = tqdm(
            total=self.iterations * args.batch_size,
            initial=len(seen) * args.batch_size,
            desc=f"epoch {self.epoch + 1}/{args.epochs}",
            unit=" images",
            disable=None,
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {rate_noinv_fmt}{postfix}",
        )
        pending, flushed = [], time.perf_counter()
        for iteration, element in enumerate(self.train_input.batches(order[len(seen) :]), start=len(seen)):
            pending.append(self.train(element, dropout_seeds(args.seed, self.epoch, iteration), rate))
            # Reading a result waits for the step: on a GPU, once for many steps.
            asked = self.stop.signal is not None
            last = asked or iteration + 1 == self.iterations
            if not last and len(pending) < 20 and time.perf_counter() - flushed < 0.2:
                continue
            for measured in map(Measured.of, pending):
                seen.append(measured)
                self.watch(measured, order[len(seen) - 1], self.dataset.train_labels, len(seen))
                if measured.nan_weights:
                    state.nan_weights = {"epoch": self.epoch + 1, "iteration": len(seen)}
                    tqdm.write(f"epoch {self.epoch + 1}, iteration {len(seen)}: the weights are NaN and stay so")
                    break
            self.step_seconds += time.perf_counter() - flushed
            self.steps_done += len(pending)
            left = self.step_seconds / self.steps_done * ((args.epochs - self.epoch) * self.iterations - len(seen))
            bar.set_postfix_str(
                f"loss {seen[-1].loss:.1f}, accuracy {self.train_accuracy():.3f}, "
                f"{datetime.timedelta(seconds=round(left))} left",
                refresh=False,
            )
            bar.update(len(pending) * args.batch_size)
            pending, flushed = [], time.perf_counter()
            if state.nan_weights or asked:
                break
            if args.save_minutes and flushed - self.saved >= 60 * args.save_minutes:
                self.save()
        bar.close()

    def train_accuracy(self):
        """Of the epoch so far."""
        return sum(m.correct for m in self.state.seen) / len(self.state.seen) / self.args.batch_size

    def evaluate(self):
        """Summed loss and accuracy over the test images."""
        size = len(self.dataset.test_labels)
        loss = correct = 0.0
        parts = np.array_split(np.arange(size, dtype=np.int32), -(-size // self.evaluation_batch))
        for number, batch in enumerate(parts):
            (element,) = self.test_input.batches(batch[np.newaxis])
            seeds = dropout_seeds(self.args.seed, self.epoch, self.iterations + number)
            measured = Measured.of(self.evaluate_batch(element, seeds))
            self.watch(measured, batch, self.dataset.test_labels, None)
            loss += measured.loss
            correct += measured.correct
        return rounded(loss), correct / size

    def finish_epoch(self):
        """Evaluate and turn the epoch in hand into a row; the rest of the curve, too, once the weights are NaN."""
        args, state, seen = self.args, self.state, self.state.seen
        evaluated = self.evaluate()
        self.count_time()
        row = Row(
            self.epoch + 1,
            *evaluated,
            train_loss=rounded(np.mean([m.loss for m in seen])),
            train_accuracy=rounded(self.train_accuracy()),
            seconds=None if state.nan_weights else round(state.epoch_seconds, 2),
            logit_gap=rounded(np.max([m.gap for m in seen])),
        )
        if args.trace:
            before = len(state.trace)
            state.trace += [
                Iteration(before + number, rounded(m.loss), rounded(m.correct / args.batch_size), rounded(m.gap))
                for number, m in enumerate(seen, start=1)
            ]
        report(row, args.epochs)
        state.rows.append(row)
        state.seen, state.epoch_seconds = [], 0.0
        if state.nan_weights:
            # Weights that are NaN stay so, and so does what this one evaluation of them showed.
            state.rows += [Row(later + 1, *evaluated) for later in range(self.epoch, args.epochs)]
            print(f"the curve is filled to epoch {args.epochs} with this evaluation, not trained")

    def run(self, write):
        """Train to the last epoch, or until asked to stop; write(state) after each epoch."""
        while self.epoch < self.args.epochs and self.stop.signal is None:
            if len(self.state.seen) < self.iterations and not self.state.nan_weights:
                self.train_epoch()
            if self.stop.signal is None:
                self.finish_epoch()
            self.save()
            write(self.state)
