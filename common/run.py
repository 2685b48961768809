"""The run of one experiment: flags, session, data, the loop over epochs, evaluation and files."""

import datetime
import inspect
import math
from pathlib import Path
import subprocess
import time

from common import arguments, data
from common.cli import UserError, user_errors
from common.input import OpenCVInput, TensorFlowInput
from common.results import Iteration, Row, read_csv, read_record, write_csv, write_record
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


class Training:
    """The loop of one run: network, data and the state that its record tells."""

    def __init__(self, network, loss, learning_rate, dataset, args):
        make_input = {"tensorflow": TensorFlowInput, "opencv": OpenCVInput}[args.resize]
        self.args, self.learning_rate, self.dataset = args, learning_rate, dataset
        self.train_input = make_input(dataset.train_images, dataset.train_labels)
        self.test_input = make_input(dataset.test_images, dataset.test_labels)
        self.train, self.evaluate_batch = compile_steps(network, loss, self.train_input, self.test_input, args.xla)
        self.iterations = len(dataset.train_labels) // args.batch_size
        self.verdict = None  # why the loss first became non-finite
        self.nan_weights = None  # {"epoch", "iteration"}, both counted from 1
        self.steps_done, self.step_seconds = 0, 0.0

    def watch(self, measured, order, labels, epoch, iteration):
        """Note, and print, why the loss is not finite, the first time that it is not."""
        if self.verdict is None and not math.isfinite(measured.loss):
            index = int(order[int(measured.image)])
            where = {"epoch": epoch + 1, "iteration": iteration}
            self.verdict = verdict(measured, index, int(labels[index]), where)
            tqdm.write(describe(self.verdict))

    def train_epoch(self, epoch):
        """One pass over the shuffled training set; returns a list of Measured, one an iteration.

        Ends early once the weights are NaN: they stay so.
        """
        args = self.args
        order = shuffled(args.seed, epoch, len(self.dataset.train_labels), args.batch_size)
        rate = tf.constant(self.learning_rate(epoch), tf.float32)
        bar = tqdm(
            total=self.iterations * args.batch_size,
            desc=f"epoch {epoch + 1}/{args.epochs}",
            unit=" images",
            disable=None,
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {rate_noinv_fmt}{postfix}",
        )
        seen, pending, flushed = [], [], time.perf_counter()
        for iteration, element in enumerate(self.train_input.batches(order)):
            pending.append(self.train(element, dropout_seeds(args.seed, epoch, iteration), rate))
            # Reading a result waits for the step: on a GPU, once for many steps.
            last = iteration + 1 == self.iterations
            if not last and len(pending) < 20 and time.perf_counter() - flushed < 0.2:
                continue
            for measured in map(Measured.of, pending):
                seen.append(measured)
                self.watch(measured, order[len(seen) - 1], self.dataset.train_labels, epoch, len(seen))
                if measured.nan_weights:
                    self.nan_weights = {"epoch": epoch + 1, "iteration": len(seen)}
                    tqdm.write(f"epoch {epoch + 1}, iteration {len(seen)}: the weights are NaN and stay so")
                    break
            self.step_seconds += time.perf_counter() - flushed
            self.steps_done += len(pending)
            left = self.step_seconds / self.steps_done * ((args.epochs - epoch) * self.iterations - iteration - 1)
            accuracy = sum(m.correct for m in seen) / len(seen) / args.batch_size
            bar.set_postfix_str(
                f"loss {seen[-1].loss:.1f}, accuracy {accuracy:.3f}, {datetime.timedelta(seconds=round(left))} left",
                refresh=False,
            )
            bar.update(len(pending) * args.batch_size)
            pending, flushed = [], time.perf_counter()
            if self.nan_weights:
                break
        bar.close()
        return seen

    def evaluate(self, epoch):
        """Summed loss and accuracy over the test images, in batches of at most 1,000."""
        size = len(self.dataset.test_labels)
        loss = correct = 0.0
        parts = np.array_split(np.arange(size, dtype=np.int32), -(-size // EVALUATION_BATCH))
        for number, batch in enumerate(parts):
            (element,) = self.test_input.batches(batch[np.newaxis])
            seeds = dropout_seeds(self.args.seed, epoch, self.iterations + number)
            measured = Measured.of(self.evaluate_batch(element, seeds))
            self.watch(measured, batch, self.dataset.test_labels, epoch, None)
            loss += measured.loss
            correct += measured.correct
        return rounded(loss), correct / size


def rounded(value):
    """A float with the fewest digits that tell its float32 from the next."""
    return float(str(np.float32(value)))


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


def complete(csv_path, record_path, epochs):
    """Whether both files are there and tell of a run that reached its last epoch."""
    if not (csv_path.exists() and record_path.exists()):
        return False
    return read_record(record_path).get("complete") is True and len(read_csv(csv_path)) == epochs


def run(AlexNet, losses, learning_rate):
    """Train and evaluate the experiment of the calling script as its flags say, and write its CSV and JSON record.

    AlexNet        the network's class, a tf.Module
    losses         {"naive": function, "fused": function} of (logits [batch, 10], one-hot labels [batch, 10])
    learning_rate  function of the epoch, counted from 0
    """
    script = Path(inspect.getfile(AlexNet))
    with user_errors():
        args = arguments.parse(script.name, inspect.getmodule(AlexNet).__doc__)
        dataset = select(data.load(args.data_dir), args)
        name = arguments.run_name(script.stem, args, dataset.digest)
        csv_path, record_path = (args.results_dir / f"{name}.{suffix}" for suffix in ("csv", "json"))
        if not args.restart and complete(csv_path, record_path, args.epochs):
            print(f"{csv_path} is complete: nothing to do. --restart moves it aside and begins anew.")
            return
        device, facts = open_session(args)
        trace_path = args.results_dir / "trace" / csv_path.name
        (trace_path.parent if args.trace else args.results_dir).mkdir(parents=True, exist_ok=True)
        set_aside(csv_path, record_path, trace_path)
        print(f"{name}: {args.epochs} epochs of {len(dataset.train_labels)} images, {args.batch_size} a batch")
        print(banner(facts, args), flush=True)
        with tf.device(device):
            training = Training(AlexNet(), losses[args.loss], learning_rate, dataset, args)
            facts = {"experiment": script.stem, "name": name, **facts}
            train_and_record(training, csv_path, record_path, trace_path, facts)


def train_and_record(training, csv_path, record_path, trace_path, facts):
    """Train to the last epoch; after each one, write the curve and the record."""
    args = training.args
    started = time.perf_counter()
    record = {
        **facts,
        "arguments": {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()},
        "git_commit": git_commit(),
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    del record["arguments"]["results_dir"], record["arguments"]["restart"]
    rows, trace = [], []
    while len(rows) < args.epochs:
        epoch = len(rows)
        epoch_started = time.perf_counter()
        seen = training.train_epoch(epoch)
        evaluated = training.evaluate(epoch)
        seconds = None if training.nan_weights else round(time.perf_counter() - epoch_started, 2)
        rows.append(
            Row(
                epoch + 1,
                *evaluated,
                train_loss=rounded(np.mean([m.loss for m in seen])),
                train_accuracy=rounded(np.mean([m.correct for m in seen]) / args.batch_size),
                seconds=seconds,
                logit_gap=rounded(np.max([m.gap for m in seen])),
            )
        )
        trace += [
            Iteration(len(trace) + number, rounded(m.loss), rounded(m.correct / args.batch_size), rounded(m.gap))
            for number, m in enumerate(seen, start=1)
        ]
        report(rows[-1], args.epochs)
        if training.nan_weights:
            # Weights that are NaN stay so, and so does what this one evaluation of them showed.
            rows += [Row(later + 1, *evaluated) for later in range(epoch + 1, args.epochs)]
            print(f"the other {args.epochs - epoch - 1} epochs are filled with this evaluation, not trained")
        write_csv(csv_path, rows)
        if args.trace:
            write_csv(trace_path, trace)
        nan_losses = [row.epoch for row in rows if math.isnan(row.loss)]
        write_record(
            record_path,
            {
                **record,
                "complete": len(rows) == args.epochs,
                "wall_seconds": round(time.perf_counter() - started, 1),
                "nan_loss_epoch": min(nan_losses, default=None),
                "nan_weights": training.nan_weights,
                "filled_from_epoch": epoch + 2 if training.nan_weights and epoch + 1 < args.epochs else None,
                "nan_cause": training.verdict,
            },
        )
    print(f"{csv_path} is complete.")


def report(row, epochs):
    """One line an epoch, in the article's manner."""
    seconds = "" if row.seconds is None else f", {row.seconds:.0f} s"
    print(
        f"epoch {row.epoch}/{epochs}, loss {row.loss:.8g}, testing accuracy {row.accuracy:.4g}, "
        f"training {row.train_accuracy:.3f}{seconds}",
        flush=True,
    )
