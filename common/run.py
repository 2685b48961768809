"""The run of one experiment: flags, session, data, the loop over epochs, evaluation and files."""

import dataclasses
import datetime
import hashlib
import inspect
import math
from pathlib import Path
import signal
import subprocess
import sys
import time

from common import arguments, data
from common.checkpoint import Checkpoints, lock
from common.cli import UserError, user_errors
from common.input import OpenCVInput, TensorFlowInput
from common.results import Iteration, Row, complete, write_csv, write_record
from common.session import banner, open_session, tf
from common.step import LAYERS, Measured, compile_steps
import numpy as np
from tqdm import tqdm

EVALUATION_BATCH = 1000  # the article's; batch norm takes its moments over it
EXPLOSION = 1e4  # a convention: the logit gap from which a NaN loss is called an explosion


def shuffled(seed, epoch, size, batch_size):
    """The order of an epoch counted from 0: int32 [size // batch_size, batch_size], a function of its arguments."""
    order = np.random.default_rng([seed, epoch]).permutation(size).astype(np.int32)
    return order[: size // batch_size * batch_size].reshape(-1, batch_size)


def dropout_seeds(seed, epoch, iteration):
    """int64 [2, 2]: the seeds of the two dropouts of an iteration, a function of its arguments."""
    return np.random.SeedSequence([seed, epoch, iteration]).generate_state(4, np.uint64).astype(np.int64).reshape(2, 2)


def git_commit():
    """The commit of this checkout, with + where tracked files differ from it; None outside git."""
    here = Path(__file__).parent
    try:
        head, changed = (
            subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + "+" * bool(changed)


def set_aside(*paths):
    """Rename each file that exists to NAME.old1, or the first number that is free."""
    for path in paths:
        if path.exists():
            number = 1
            while (old := path.with_name(f"{path.name}.old{number}")).exists():
                number += 1
            path.rename(old)
            print(f"{path.name} moved aside to {old.name}")


def verdict(measured, index, label, where):
    """Why the loss is not finite, as a dict for the record; index is that of the image in its data set."""
    explosion = not measured.finite or measured.gap >= EXPLOSION
    return {
        "cause": "explosion" if explosion else "log(0)",
        **where,
        "logit_gap": measured.gap,
        "image": index,
        "label": label,
        "largest_activation": dict(zip(LAYERS, measured.largest)),
    }


def describe(verdict):
    """The verdict in two lines."""
    place = f"epoch {verdict['epoch']}, " + (
        f"iteration {verdict['iteration']}" if verdict["iteration"] is not None else "evaluation"
    )
    cause = {
        "log(0)": "log(0): the logits are finite, a softmax entry underflowed to 0",
        "explosion": f"explosion: the logits are not finite, or {EXPLOSION:.0e} and more apart",
    }[verdict["cause"]]
    largest = ", ".join(f"{name} {value:.3g}" for name, value in verdict["largest_activation"].items())
    return (
        f"{place}: the loss is not finite. {cause}\n"
        f"  logit gap {verdict['logit_gap']:.4g} at image {verdict['image']}, a {verdict['label']}\n"
        f"  largest activations: {largest}"
    )


class Stop:
    """Ctrl-C and SIGTERM: the first asks the loop to stop after the step in hand, the second quits at once."""

    def __init__(self):
        self.signal = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.ask)

    def ask(self, number, _):
        self.signal = number
        signal.signal(number, signal.SIG_DFL)
        print("\nstopping after this step; once more to quit at once", file=sys.stderr)


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
        """Summed loss and accuracy over the test images, in batches of at most 1,000."""
        size = len(self.dataset.test_labels)
        loss = correct = 0.0
        parts = np.array_split(np.arange(size, dtype=np.int32), -(-size // EVALUATION_BATCH))
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
            print(f"the other {args.epochs - row.epoch} epochs are filled with this evaluation, not trained")

    def run(self, write):
        """Train to the last epoch, or until asked to stop; write(state) after each epoch."""
        while self.epoch < self.args.epochs and self.stop.signal is None:
            if len(self.state.seen) < self.iterations and not self.state.nan_weights:
                self.train_epoch()
            if self.stop.signal is None:
                self.finish_epoch()
            self.save()
            write(self.state)


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


def select(dataset, args):
    """The dataset cut to --train-size and --test-size; UserError if they, or the batch, do not fit it."""
    for flag, size, most in (
        ("--train-size", args.train_size, len(dataset.train_labels)),
        ("--test-size", args.test_size, len(dataset.test_labels)),
    ):
        if size is not None and size > most:
            raise UserError(f"{flag} {size}: the data set has {most} images; lower it")
    if args.train_size == len(dataset.train_labels):
        args.train_size = None
    dataset = dataset._replace(
        train_images=dataset.train_images[: args.train_size],
        train_labels=dataset.train_labels[: args.train_size],
        test_images=dataset.test_images[: args.test_size],
        test_labels=dataset.test_labels[: args.test_size],
    )
    if len(dataset.train_labels) < args.batch_size:
        raise UserError(
            f"--batch-size {args.batch_size}: there are {len(dataset.train_labels)} training images; "
            "lower it or raise --train-size"
        )
    return dataset


def same_run(name, before, now):
    """UserError if a run began under other conditions than those of now; both are dicts."""
    for key in now:
        if before.get(key) != now[key]:
            raise UserError(
                f"{name}: began with {key} {before.get(key)}, now it is {now[key]}; "
                "go back to that, or begin anew with --restart"
            )


class Files:
    """The files of one run: curve, record, trace if asked for, checkpoints and lock."""

    def __init__(self, folder, name, args):
        self.folder, self.name, self.args = folder, name, args
        self.csv, self.record = folder / f"{name}.csv", folder / f"{name}.json"
        self.trace = folder / "trace" / f"{name}.csv"
        self.checkpoints = folder / ".checkpoints" / name

    def write(self, state, facts):
        """Bring curve and record to the state; the record last, which says whether the run is complete."""
        if not state.rows:
            return
        write_csv(self.csv, state.rows)
        if self.args.trace:
            self.trace.parent.mkdir(exist_ok=True)
            write_csv(self.trace, state.trace)
        nan_losses = [row.epoch for row in state.rows if math.isnan(row.loss)]
        filled = state.nan_weights and state.nan_weights["epoch"] < self.args.epochs
        write_record(
            self.record,
            {
                **facts,
                "complete": len(state.rows) == self.args.epochs,
                "started": state.started,
                "wall_seconds": round(state.wall_seconds, 1),
                "nan_loss_epoch": min(nan_losses, default=None),
                "nan_weights": state.nan_weights,
                "filled_from_epoch": state.nan_weights["epoch"] + 1 if filled else None,
                "nan_cause": state.cause,
            },
        )


def run(AlexNet, losses, learning_rate):
    """Train and evaluate the experiment of the calling script as its flags say, and write its CSV and JSON record.

    AlexNet        the network's class, a tf.Module
    losses         {"naive": function, "fused": function} of (logits [batch, 10], one-hot labels [batch, 10])
    learning_rate  function of the epoch, counted from 0

    A run that was stopped or killed goes on where its last checkpoint stands. Ends the process with exit code 2 and
    one line on stderr for bad input, 130 after Ctrl-C and 143 after SIGTERM.
    """
    script = Path(inspect.getfile(AlexNet))
    with user_errors():
        args = arguments.parse(script.name, inspect.getmodule(AlexNet).__doc__)
        stop = Stop()
        dataset = select(data.load(args.data_dir), args)
        name = arguments.run_name(script.stem, args, dataset.digest)
        files = Files(args.results_dir, name, args)
        if not args.restart and complete(files.csv, files.record, args.epochs):
            print(f"{files.csv} is complete: nothing to do. --restart moves it aside and begins anew.")
            return
        device, facts = open_session(args)
        lock(files.checkpoints.parent, name)
        print(f"{name}: {args.epochs} epochs of {len(dataset.train_labels)} images, {args.batch_size} a batch")
        print(banner(facts, args), flush=True)
        with tf.device(device):
            facts = {"experiment": script.stem, **facts}
            train(AlexNet(), losses[args.loss], learning_rate, dataset, args, files, facts, stop)


def train(network, loss, learning_rate, dataset, args, files, facts, stop):
    """Train from the last checkpoint, or from the start, to the last epoch or a signal."""
    conditions = {key: facts[key] for key in ("device", "device_name", "threads", "tf32", "xla", "deterministic")}
    conditions |= {"TensorFlow": tf.__version__, "--trace": args.trace}
    conditions |= {"script": hashlib.sha256(Path(inspect.getfile(type(network))).read_bytes()).hexdigest()[:12]}
    checkpoints = Checkpoints(files.checkpoints, network)
    if args.restart:
        checkpoints.delete()
    kept = checkpoints.restore()
    if kept is None:
        set_aside(files.csv, files.record, files.trace)
        state = State(started=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"))
    else:
        same_run(files.name, kept["conditions"], conditions)
        state = State.of(kept["state"])
        print(f"going on at iteration {len(state.seen)} of epoch {len(state.rows) + 1}")

    left_out = ("results_dir", "restart", "keep_checkpoint", "save_minutes")
    facts = {
        **facts,
        "name": files.name,
        "arguments": {
            key: str(value) if isinstance(value, Path) else value
            for key, value in vars(args).items()
            if key not in left_out
        },
        "git_commit": git_commit(),
    }

    def save(step, state):
        checkpoints.save(step, {"conditions": conditions, "state": dataclasses.asdict(state)})

    training = Training(network, loss, learning_rate, dataset, args, state, save, stop)
    try:
        training.run(lambda state: files.write(state, facts))
    except tf.errors.ResourceExhaustedError:
        raise UserError(f"the {facts['device']} is out of memory: lower --batch-size or --test-size") from None
    files.write(state, facts)
    checkpoints.wait()
    if len(state.rows) < args.epochs:
        print(f"stopped at iteration {len(state.seen)} of epoch {len(state.rows) + 1}: the same command goes on there")
        sys.exit(128 + stop.signal)
    if not args.keep_checkpoint:
        checkpoints.delete()
    print(f"{files.csv} is complete.")
