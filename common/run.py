"""The run of one experiment: flags, session, data, the loop over epochs, evaluation and files."""

import contextlib
import dataclasses
import datetime
import hashlib
import inspect
import math
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading

from common import arguments, data
from common.checkpoint import Checkpoints, lock
from common.cli import UserError, user_errors
from common.results import complete, write_csv, write_record
from common.session import banner, open_session, tf
from common.training import State, Training


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


class Stop:
    """Ctrl-C and SIGTERM: the first asks the loop to stop after the step in hand, the second quits at once.

    A thread listens, because Python itself handles a signal only once the step in hand has returned.
    """

    def __init__(self):
        self.signal = None
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        threading.Thread(target=self.listen, args=(reader,), daemon=True).start()

    def listen(self, reader):
        while number := os.read(reader, 1)[0]:
            if self.signal is not None:
                os._exit(128 + number)
            self.signal = number
            print("\nstopping after this step; once more to quit at once", file=sys.stderr, flush=True)


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
    except OSError:
        with contextlib.suppress(UserError):
            checkpoints.wait()  # lest its background thread complain at exit, too
        raise
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
