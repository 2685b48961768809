"""The run of one experiment: flags, session, data, the loop over epochs, evaluation and files."""

import contextlib
import dataclasses
import functools
import inspect
import math
from pathlib import Path
import sys
import tempfile

from common import arguments, data
from common.checkpoint import load, lock, require_disk_space, restore, save
from common.cli import Stop, UserError, say, user_errors
from common.commit import git_commit
from common.fingerprint import code_fingerprint
from common.report import banner
from common.results import complete, read_record, write_csv, write_record
from common.session import open_session
from common.tensorflow import tf
from common.training import State, Training


class Files:
    """The files of one run: curve, record, trace, checkpoint, weights and lock."""

    def __init__(self, folder, name, args):
        self.folder, self.name, self.args = folder, name, args
        self.csv, self.record = folder / f"{name}.csv", folder / f"{name}.json"
        self.trace = folder / "trace" / f"{name}.csv"
        self.weights = folder / "weights" / f"{name}.npz"
        self.checkpoint = folder / ".checkpoints" / f"{name}.npz"
        self.lock = folder / ".checkpoints" / f"{name}.lock"
        self.tensorflow = folder / ".checkpoints" / name  # checkpoints in the format of earlier commits

    def prepare_folders(self):
        """Make each folder that the run will write to, and remove files that a kill left half-written.

        UserError if one is not writable.
        """
        for path in (self.csv, self.record, self.trace, self.checkpoint, *[self.weights] * (not self.args.no_weights)):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=path.parent).close()
                path.with_name(f"{path.name}.part").unlink(missing_ok=True)
            except OSError as error:
                what = f"{error.strerror}; make it a folder that can be written to, or name another --results-dir"
                raise UserError(f"{path.parent}: {what}") from None

    def move_aside(self):
        """Rename each existing file of the run to NAME.oldN, all with the first N that is free."""
        files = self.csv, self.record, self.trace, self.weights, self.checkpoint, self.tensorflow
        found = [path for path in files if path.exists()]
        number = 1
        while any(path.with_name(f"{path.name}.old{number}").exists() for path in found):
            number += 1
        for path in found:
            path.rename(path.with_name(f"{path.name}.old{number}"))
            say(f"{path.relative_to(self.folder)} moved aside to {path.name}.old{number}")

    def complete(self):
        """Whether the run is complete; prints so if it is.

        UserError if its curve or record is unreadable, unless it has a state file, which holds both.
        """
        try:
            if not complete(self.csv, self.record, self.args.epochs):
                return False
        except UserError:
            if not (self.checkpoint.exists() or self.weights.exists()):
                raise
            return False
        lacks = "".join(f" But {', '.join(clauses)}." for clauses in [list(self.unmet_flags())] if clauses)
        say(f"{self.csv} is complete: nothing to do.{lacks} --restart moves it aside and starts over.")
        return True

    def load(self):
        """(path, {name: array}, run) of the run's state file, or None if it has none.

        That is its weights if the run was killed before its record said complete, else its checkpoint. UserError if it
        is unreadable, damaged, or of another run.
        """
        if any(self.tensorflow.glob("step-*.index")):
            raise UserError(
                f"{self.tensorflow}: checkpoints in TensorFlow's format. Finish the run with commit d22d2a0, which "
                "reads them, or start over with --restart."
            )
        for path in (self.weights, self.checkpoint):
            with contextlib.suppress(FileNotFoundError):
                arrays, kept = load(path)
                if kept.get("name") != self.name:
                    raise UserError(f"{path}: the state of {kept.get('name')}, not of {self.name}; move it elsewhere")
                return path, arrays, kept
        return None

    def write(self, state, facts, **more):
        """Write curve, trace and record of the state; the record, which says complete, comes last."""
        if not state.rows:
            return
        write_csv(self.csv, state.rows)
        write_csv(self.trace, state.trace)
        nan_losses = [row.epoch for row in state.rows if math.isnan(row.loss)]
        filled = state.nan_weights and state.nan_weights["epoch"] < self.args.epochs
        write_record(
            self.record,
            {
                **facts,
                "complete": False,
                **more,
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

    def unmet_flags(self):
        """Yield a clause for each thing that the flags ask for and the complete run does not have."""
        args, record = self.args, read_record(self.record)
        if args.device != "auto" and args.device[:3] != str(record.get("device")).lower():
            yield f"it did not run with --device {args.device}"
        lacks = {"no-tf32": record.get("tf32")} | {flag: not record.get(flag) for flag in ("xla", "deterministic")}
        yield from (
            f"it ran without --{flag}" for flag in lacks if lacks[flag] and getattr(args, flag.replace("-", "_"))
        )
        if not self.trace.exists():
            yield "it has no trace"
        if not (args.no_weights or record.get("nan_weights")):
            here = self.weights.stat().st_size if self.weights.exists() else 0
            if not here:
                yield "its weights are missing"
            elif here != record.get("weights_bytes"):
                yield f"{self.weights} has {here} of the {record.get('weights_bytes')} bytes that were written"


def run(AlexNet, losses, learning_rate, evaluation_batch=200):
    """Train and evaluate the experiment of the calling script as its flags say, and write its CSV and JSON record.

    AlexNet           the network's class, a tf.Module
    losses            {"naive": function, "fused": function} of (logits [batch, 10], one-hot labels [batch, 10])
    learning_rate     function of the epoch, counted from 0
    evaluation_batch  test images that go through the network at once; 200 need no more memory than a training step

    A run that was stopped or killed resumes from its checkpoint. Ends the process with exit code 2 and one line on
    stderr for bad input, 130 after Ctrl-C and 143 after SIGTERM.
    """
    script = Path(inspect.getfile(AlexNet))
    with user_errors():
        args = arguments.parse(script.name, inspect.getmodule(AlexNet).__doc__)
        dataset = data.load(args.data_dir)
        name = arguments.run_name(script.stem, args, dataset)
        dataset = data.select(dataset, args.train_size, args.test_size, args.batch_size)
        files = Files(args.results_dir, name, args)
        if not args.restart and files.complete():
            return
        device, facts = open_session(
            args.device,
            args.precision,
            args.seed,
            xla=args.xla,
            deterministic=args.deterministic,
            no_tf32=args.no_tf32,
            gpu_memory_fraction=args.gpu_memory_fraction,
            log_device_placement=args.log_device_placement,
        )
        with Stop() as stop, lock(files.lock, name):
            if not args.restart and files.complete():  # another run has just completed it
                return
            files.prepare_folders()
            say(f"{name}: {args.epochs} epochs of {len(dataset.train_labels)} images, {args.batch_size} a batch")
            say(banner(facts, args))
            try:
                with tf.device(device):
                    train(AlexNet(), losses[args.loss], learning_rate, dataset, files, facts, stop, evaluation_batch)
            except (MemoryError, tf.errors.ResourceExhaustedError):
                raise UserError(
                    f"{facts['device_name']} is out of memory: lower --batch-size or --test-size, or wait until "
                    "whatever else uses it has ended"
                ) from None


def train(network, loss, learning_rate, dataset, files, facts, stop, evaluation_batch=200):
    """Train from the checkpoint, or from the start, until the last epoch or a signal."""
    args, script = files.args, Path(inspect.getfile(type(network)))
    here, changed, state = code_fingerprint(script), [], State()
    if args.restart:
        files.move_aside()
    require_disk_space(files.checkpoint, network)
    found = files.load()
    if found:
        path, arrays, kept = found
        state, before = State.from_json(kept["state"]), kept["computes"]
        changed = [name for name in {**before, **here} if before.get(name) != here.get(name)]
        if changed and not args.despite_changes:
            raise UserError(
                f"{files.name} began with a different {', '.join(changed)}. Undo the change, resume with "
                "--despite-changes, or start over with --restart."
            )
        restore(network, arrays, path)
    else:
        files.move_aside()
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
    if len(state.rows) < args.epochs:
        state.start_segment(facts, changed)
    else:  # killed before its record was written
        facts = kept["facts"]

    def save_to(path):
        everything = {"name": files.name, "computes": here, "facts": facts, "state": dataclasses.asdict(state)}
        save(path, network, everything)

    checkpoint = functools.partial(save_to, files.checkpoint)
    training = Training(
        network, loss, learning_rate, dataset, args, state, checkpoint, stop, evaluation_batch=evaluation_batch
    )
    try:
        training.run(lambda: files.write(state, facts))
        if len(state.rows) < args.epochs:
            save_to(files.checkpoint)
            files.write(state, facts)
            place = f"iteration {len(state.batches_done)} of epoch {len(state.rows) + 1}"
            say(f"stopped at {place}: the same command{' without --restart' * args.restart} resumes there")
            sys.exit(128 + stop.signal)
        keep = not (args.no_weights or state.nan_weights)
        if keep:
            save_to(files.weights)
        files.write(state, facts, complete=True, weights_bytes=files.weights.stat().st_size if keep else None)
        files.checkpoint.unlink(missing_ok=True)
    except OSError as error:
        if error.filename != str(files.checkpoint):
            with contextlib.suppress(OSError):
                save_to(files.checkpoint)
        raise
    say(f"{files.csv} is complete" + (f", its weights are in {files.weights}" if keep else ""))
