"""The run of one experiment: flags, session, data, the loop over epochs, evaluation and files."""

import contextlib
import dataclasses
import datetime
import inspect
import math
import os
from pathlib import Path
import signal
import sys
import threading

from common import arguments, data
from common.checkpoint import Checkpoints, lock, what_computes, write
from common.cli import UserError, on_signals, say, user_errors
from common.commit import git_commit
from common.report import banner
from common.results import complete, read_record, write_csv, write_record
from common.session import memory_for_variables, open_session, tf
from common.training import State, Training

# What may change where a run goes on: facts of the session that a stretch of it is recorded with.
CONDITIONS = (
    "device", "device_name", "threads", "precision", "tf32", "xla", "deterministic", "versions", "environment"
)  # fmt: skip


def differences(before, here):
    """What of the CONDITIONS of two stretches differs, as a list of "threads 1, not 2"."""
    pairs = []
    for key in CONDITIONS:
        new, old = here[key], before.get(key, {})
        if isinstance(new, dict):
            pairs += [(name, new.get(name, "unset"), old.get(name, "unset")) for name in {**new, **old}]
        else:
            pairs.append((key, new, old))
    return [f"{name} {new}, not {old}" for name, new, old in pairs if new != old]


def set_aside(*paths):
    """Rename each file that exists to NAME.old1, or the first number that is free."""
    for path in paths:
        if path.exists():
            number = 1
            while (old := path.with_name(f"{path.name}.old{number}")).exists():
                number += 1
            path.rename(old)
            say(f"{path.name} moved aside to {old.name}")


class Stop:
    """Ctrl-C, SIGTERM and SIGHUP: the first asks the loop to stop after the step in hand, another quits at once.

    A closing terminal may send SIGHUP twice, so that one never quits. A thread listens, because Python itself handles
    a signal only once the step in hand has returned.
    """

    def __init__(self):
        self.signal = None
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer)
        on_signals(lambda *_: None)
        threading.Thread(target=self.listen, args=(reader,), daemon=True).start()

    def listen(self, reader):
        while number := os.read(reader, 1)[0]:
            if self.signal is None:
                self.signal = number
                with contextlib.suppress(OSError):
                    print("\nstopping after this step; once more to quit at once", file=sys.stderr, flush=True)
            elif number != signal.SIGHUP:
                os._exit(128 + number)


def begin_stretch(state, facts, changed):
    """Add to the state's stretches if facts, those of this session, are not the last one's; says so if it matters.

    changed names what computes otherwise than before, which --despite-changes let pass.
    """
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    here = {key: facts[key] for key in (*CONDITIONS, "git_commit")} | {"despite": changed}
    before = state.stretches[-1] if state.stretches else None
    if before is None or changed or any(before.get(key) != here[key] for key in here if key != "despite"):
        place = {"epoch": len(state.rows) + 1, "iteration": len(state.seen)}
        state.stretches.append({**place, **here, "started": now, "seconds": 0.0})
    if before is not None:
        other = differences(before, here)
        elsewhere = f", elsewhere ({'; '.join(other)})" if other else ""
        say(f"going on at iteration {len(state.seen)} of epoch {len(state.rows) + 1}{elsewhere}")


class Files:
    """The files of one run: curve, record, trace, weights, checkpoints and lock."""

    def __init__(self, folder, name, args):
        self.folder, self.name, self.args = folder, name, args
        self.csv, self.record = folder / f"{name}.csv", folder / f"{name}.json"
        self.trace = folder / "trace" / f"{name}.csv"
        self.weights = folder / "weights" / name
        self.weight_files = [self.weights.with_suffix(end) for end in (".index", ".data-00000-of-00001")]
        self.checkpoints = folder / ".checkpoints" / name

    def write(self, state, facts, complete=False):
        """Bring curve, trace and record to the state; the record last, which says whether the run is complete."""
        if not state.rows:
            return
        write_csv(self.csv, state.rows)
        self.trace.parent.mkdir(exist_ok=True)
        write_csv(self.trace, state.trace)
        nan_losses = [row.epoch for row in state.rows if math.isnan(row.loss)]
        filled = state.nan_weights and state.nan_weights["epoch"] < self.args.epochs
        write_record(
            self.record,
            {
                **facts,
                "complete": complete,
                "started": state.stretches[0]["started"],
                "wall_seconds": round(sum(stretch["seconds"] for stretch in state.stretches), 1),
                "stretches": [{**stretch, "seconds": round(stretch["seconds"], 1)} for stretch in state.stretches],
                "nan_loss_epoch": min(nan_losses, default=None),
                "nan_weights": state.nan_weights,
                "filled_from_epoch": state.nan_weights["epoch"] + 1 if filled else None,
                "nan_cause": state.causes[0] if state.causes else None,
                "nan_causes": state.causes,
            },
        )

    def missing(self):
        """What the flags ask for that the complete run does not have, as clauses."""
        args, record = self.args, read_record(self.record)
        if args.device != "auto" and args.device[:3] != str(record.get("device")).lower():
            yield f"it did not run with --device {args.device}"
        if args.no_tf32 and record.get("tf32"):
            yield "it ran without --no-tf32"
        for flag in ("xla", "deterministic"):
            if getattr(args, flag) and not record.get(flag):
                yield f"it ran without --{flag}"
        if not self.trace.exists():
            yield "it has no trace"
        if not (args.no_weights or record.get("nan_weights") or self.weight_files[0].exists()):
            yield "its weights are not here"


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
        dataset = data.select(data.load(args.data_dir), args)
        name = arguments.run_name(script.stem, args, dataset.digest)
        files = Files(args.results_dir, name, args)
        if not args.restart and complete(files.csv, files.record, args.epochs):
            lacks = "".join(f" But {', '.join(clauses)}." for clauses in [list(files.missing())] if clauses)
            say(f"{files.csv} is complete: nothing to do.{lacks} --restart moves it aside and begins anew.")
            return
        device, facts = open_session(args)
        lock(files.checkpoints.parent, name)
        say(f"{name}: {args.epochs} epochs of {len(dataset.train_labels)} images, {args.batch_size} a batch")
        say(banner(facts, args))
        with tf.device(device), memory_for_variables(facts):
            train(AlexNet(), losses[args.loss], learning_rate, dataset, files, facts, stop)


def train(network, loss, learning_rate, dataset, files, facts, stop):
    """Train from the last checkpoint, or from the start, to the last epoch or a signal."""
    args, script = files.args, Path(inspect.getfile(type(network)))
    here, changed = what_computes(script), []

    def accept(kept):
        before = kept["computes"]
        changed[:] = [name for name in {**before, **here} if before.get(name) != here.get(name)]
        if changed and not args.despite_changes:
            raise UserError(
                f"{files.name}: it began with another {', another '.join(changed)}; take the change back, go on all "
                "the same with --despite-changes, or begin anew with --restart"
            )

    checkpoints = Checkpoints(files.checkpoints, network)
    if args.restart:
        checkpoints.delete()
    checkpoints.need_room()
    kept = checkpoints.restore(accept)
    if kept is None:
        set_aside(files.csv, files.record, files.trace, *files.weight_files)
    state = State.of(kept["state"]) if kept else State()
    left_out = ("results_dir", "restart", "despite_changes", "no_weights", "save_minutes")
    facts = {
        "experiment": script.stem,
        **facts,
        "name": files.name,
        "arguments": {
            key: str(value) if isinstance(value, Path) else value
            for key, value in vars(args).items()
            if key not in left_out
        },
        "command": arguments.command(script.name, args, left_out),
        "git_commit": git_commit(),
    }
    begin_stretch(state, facts, changed)

    def save(step, state):
        checkpoints.save(step, {"computes": here, "state": dataclasses.asdict(state)})

    training = Training(network, loss, learning_rate, dataset, args, state, save, stop)
    try:
        training.run(lambda state: files.write(state, facts))
    except tf.errors.ResourceExhaustedError:
        raise UserError(f"the {facts['device']} is out of memory: lower --batch-size or --test-size") from None
    if len(state.rows) < args.epochs:
        files.write(state, facts)
        the_same = "the same command without --restart" if args.restart else "the same command"
        say(f"stopped at iteration {len(state.seen)} of epoch {len(state.rows) + 1}: {the_same} goes on there")
        sys.exit(128 + stop.signal)
    keep = not (args.no_weights or state.nan_weights)
    if keep:
        files.weights.parent.mkdir(exist_ok=True)
        checkpoints.keep(checkpoints.steps()[:1])
        write(tf.train.Checkpoint(network=network), files.weights)
    files.write(state, facts, complete=True)
    checkpoints.delete()
    say(f"{files.csv} is complete" + (f", its weights are in {files.weights}.*" if keep else ""))
