"""The loop over epochs: training steps, evaluation, and the state that a run resumes from."""

import dataclasses
import datetime
import math
import time

from common.input import OpenCVInput, TensorFlowInput, in_order, shuffled
from common.report import Progress, describe, epoch_line, say
from common.results import EXPLOSION, Iteration, Row
from common.step import LAYERS, BatchMetrics, compile_steps, dropout_seeds
from common.tensorflow import tf
import numpy as np


def diagnose_nan(measured, index, label, where):
    """Why the loss is not finite, as a dict for the record; index is the image's in its data set."""
    explosion = not measured.finite or measured.gap >= EXPLOSION
    return {
        "cause": "explosion" if explosion else "log(0)",
        **where,
        "logit_gap": measured.gap,
        "softmax_underflow": bool(measured.underflow),
        "image": index,
        "label": label,
        "largest_activation": dict(zip(LAYERS, measured.max_activations)),
    }


# The facts of a session that may differ where a run resumes; each segment of a run is recorded with its own.
CONDITIONS = (
    "device", "device_name", "threads", "precision", "tf32", "xla", "deterministic", "versions", "environment"
)  # fmt: skip


def differences(before, here):
    """How the CONDITIONS of a session differ from those of the previous segment, as a list of "threads 1, not 2"."""
    pairs = []
    for key in CONDITIONS:
        new, old = here[key], before.get(key, {})
        if isinstance(new, dict):
            pairs += [(name, new.get(name, "unset"), old.get(name, "unset")) for name in {**new, **old}]
        else:
            pairs.append((key, new, old))
    return [f"{name} {new}, not {old}" for name, new, old in pairs if new != old]


@dataclasses.dataclass
class State:
    """Where a run stands, except for the network's variables; a checkpoint keeps both."""

    rows: list = dataclasses.field(default_factory=list)  # of Row, the epochs that are done
    trace: list = dataclasses.field(default_factory=list)  # of Iteration
    batches_done: list = dataclasses.field(default_factory=list)  # of BatchMetrics, the iterations of the current epoch
    causes: list = dataclasses.field(default_factory=list)  # of dicts: why losses were not finite (diagnose_nan)
    nan_weights: dict | None = None  # {"epoch", "iteration"}, both counted from 1
    epoch_seconds: float = 0.0  # spent on the current epoch
    stretches: list = dataclasses.field(default_factory=list)  # of dicts, the segments of the run (start_segment)

    @classmethod
    def from_json(cls, kept):
        """The state from its dataclasses.asdict after a round trip through JSON."""
        kept = {**kept, "rows": [Row(*row) for row in kept["rows"]]}
        kept["trace"] = [Iteration(*row) for row in kept["trace"]]
        kept["batches_done"] = [BatchMetrics(*measured[:-1], tuple(measured[-1])) for measured in kept["batches_done"]]
        return cls(**kept)

    def start_segment(self, facts, changed):
        """Add to stretches unless the facts of this session are those of the last segment; print what differs.

        changed names the code that has changed since then, which --despite-changes permits.
        """
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        here = {key: facts[key] for key in (*CONDITIONS, "git_commit")}
        place = {"epoch": len(self.rows) + 1, "iteration": len(self.batches_done)}
        before = self.stretches[-1] if self.stretches else None
        if before is None or changed or any(before.get(key) != here[key] for key in here):
            self.stretches.append({**place, **here, "despite": changed, "started": now, "seconds": 0.0})
        if before is not None:
            other = differences(before, here)
            elsewhere = f", elsewhere ({'; '.join(other)})" if other else ""
            say(f"resuming at iteration {place['iteration']} of epoch {place['epoch']}{elsewhere}")


def shortest_float32(value):
    """A float with the fewest digits that identify its float32."""
    return float(str(np.float32(value)))


class Training:
    """The loop of one run.

    state              where the run stands; the last of its stretches is the current segment
    save_checkpoint()  called every --save-minutes
    stop               a Stop, or anything whose signal is None until the run is asked to stop
    evaluation_batch   test images that go through the network at once
    """

    def __init__(self, network, loss, learning_rate, dataset, args, state, save_checkpoint, stop, evaluation_batch=200):
        make_input = {"tensorflow": TensorFlowInput, "opencv": OpenCVInput}[args.resize]
        self.args, self.learning_rate, self.dataset, self.state = args, learning_rate, dataset, state
        self.save_checkpoint, self.stop = save_checkpoint, stop
        self.train_input = make_input(dataset.train_images, dataset.train_labels)
        self.test_input = make_input(dataset.test_images, dataset.test_labels)
        self.train, self.evaluate_batch = compile_steps(network, loss, self.train_input, self.test_input, args.xla)
        self.iterations = len(dataset.train_labels) // args.batch_size
        self.evaluation_batch = evaluation_batch
        self.steps_done, self.step_seconds = 0, 0.0
        self.progress = Progress(args.epochs)
        self.clock = self.saved = time.perf_counter()

    @property
    def epoch(self):
        """The current epoch, counted from 0."""
        return len(self.state.rows)

    def count_time(self):
        now = time.perf_counter()
        self.state.epoch_seconds += now - self.clock
        self.state.stretches[-1]["seconds"] += now - self.clock
        self.clock = now

    def save_when_due(self):
        if time.perf_counter() - self.saved >= 60 * self.args.save_minutes:
            self.count_time()
            self.save_checkpoint()
            self.saved = time.perf_counter()

    def note_nan(self, measured, order, labels, iteration):
        """Note and print why a loss is not finite: once per evaluation, and not once the weights are NaN."""
        where = {"epoch": self.epoch + 1, "iteration": iteration}
        known = any(where.items() <= cause.items() for cause in self.state.causes)
        if not (math.isfinite(measured.loss) or self.state.nan_weights or known):
            index = int(order[int(measured.image)])
            self.state.causes.append(diagnose_nan(measured, index, int(labels[index]), where))
            say(describe(self.state.causes[-1]))

    def train_epoch(self):
        """Train on the rest of the shuffled training set, adding to state.batches_done.

        Ends early when asked to stop, and once the weights are NaN, as they stay so.
        """
        args, state, done = self.args, self.state, self.state.batches_done
        order = shuffled(args.seed, self.epoch, len(self.dataset.train_labels), args.batch_size)
        rate = tf.constant(self.learning_rate(self.epoch), tf.float32)
        self.progress.begin(self.epoch + 1, self.iterations * args.batch_size, len(done) * args.batch_size)
        pending, flushed = [], time.perf_counter()
        for iteration, batch in enumerate(self.train_input.batches(order[len(done) :]), start=len(done)):
            pending.append(self.train(batch, dropout_seeds(args.seed, self.epoch, iteration), rate))
            # Reading a result waits for the step: on a GPU, once for many steps.
            asked = self.stop.signal is not None
            last = asked or iteration + 1 == self.iterations
            if not last and len(pending) < 20 and time.perf_counter() - flushed < 0.2:
                continue
            for measured in map(BatchMetrics.from_vector, pending):
                done.append(measured)
                self.note_nan(measured, order[len(done) - 1], self.dataset.train_labels, len(done))
                if measured.nan_weights:
                    state.nan_weights = {"epoch": self.epoch + 1, "iteration": len(done)}
                    say(f"epoch {self.epoch + 1}, iteration {len(done)}: the weights are NaN and stay so")
                    break
            self.step_seconds += time.perf_counter() - flushed
            self.steps_done += len(pending)
            step = self.step_seconds / self.steps_done
            self.progress.update(
                images=len(pending) * args.batch_size,
                loss=self.train_loss(),
                accuracy=self.train_accuracy(),
                rate=args.batch_size / step,
                seconds_left=step * ((args.epochs - self.epoch) * self.iterations - len(done)),
            )
            if state.nan_weights or asked:
                break
            self.save_when_due()
            pending, flushed = [], time.perf_counter()
        self.progress.end()

    def train_loss(self):
        """The mean over the batches of the epoch so far."""
        return np.mean([m.loss for m in self.state.batches_done])

    def train_accuracy(self):
        """The accuracy over the epoch so far."""
        return sum(m.correct for m in self.state.batches_done) / len(self.state.batches_done) / self.args.batch_size

    def evaluate(self):
        """Summed loss and accuracy over the test images."""
        size = len(self.dataset.test_labels)
        loss = correct = 0.0
        for number, order in enumerate(in_order(size, self.evaluation_batch)):
            (batch,) = self.test_input.batches(order[np.newaxis])
            seeds = dropout_seeds(self.args.seed, self.epoch, self.iterations + number)
            measured = BatchMetrics.from_vector(self.evaluate_batch(batch, seeds))
            self.note_nan(measured, order, self.dataset.test_labels, None)
            loss += measured.loss
            correct += measured.correct
        return shortest_float32(loss), correct / size

    def finish_epoch(self):
        """Evaluate, turn the current epoch into a row, and return it; add all later rows if the weights are NaN."""
        args, state, done = self.args, self.state, self.state.batches_done
        evaluated = self.evaluate()
        self.count_time()
        row = Row(
            self.epoch + 1,
            *evaluated,
            train_loss=shortest_float32(self.train_loss()),
            train_accuracy=shortest_float32(self.train_accuracy()),
            seconds=None if state.nan_weights else round(state.epoch_seconds, 2),
            logit_gap=shortest_float32(np.max([m.gap for m in done])),
        )
        before = len(state.trace)
        state.trace += [
            Iteration(
                before + number,
                shortest_float32(m.loss),
                shortest_float32(m.correct / args.batch_size),
                shortest_float32(m.gap),
            )
            for number, m in enumerate(done, start=1)
        ]
        state.rows.append(row)
        state.batches_done, state.epoch_seconds = [], 0.0
        if state.nan_weights:
            # Weights that are NaN stay so: every later evaluation would show the same.
            state.rows += [Row(later + 1, *evaluated) for later in range(self.epoch, args.epochs)]
        return row

    def run(self, write):
        """Train to the last epoch, or until asked to stop. After each epoch, call write() and print a line."""
        while self.epoch < self.args.epochs and self.stop.signal is None:
            if len(self.state.batches_done) < self.iterations and not self.state.nan_weights:
                self.train_epoch()
            if self.stop.signal is None:
                row = self.finish_epoch()
                write()
                say(epoch_line(row, self.args.epochs))
                if self.epoch < self.args.epochs:
                    self.save_when_due()
                elif self.state.nan_weights:
                    say(f"the curve is filled to epoch {self.args.epochs} with this evaluation, not trained")
        self.count_time()
