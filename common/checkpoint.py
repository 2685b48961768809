"""What a run needs to go on: its checkpoints, and the lock that keeps a second run off its files."""

import fcntl
import json
import logging
import os
import shutil

from common.cli import UserError
from common.session import tf


def lock(folder, name):
    """Hold folder/NAME.lock until the process ends, however it ends; UserError if another run holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o666)  # never closed
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{name}: another run is writing its files; wait, or name another --results-dir") from None


class Checkpoints:
    """The checkpoints of one run in a folder of its own, named by a step that grows.

    A checkpoint holds the network's variables and, in the same file, a JSON text with the rest of the run's state, so
    that the two cannot disagree. At most two complete ones are kept besides the one that is being written.
    """

    def __init__(self, folder, network):
        self.folder, self.newest = folder, None
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # failed() says in one line what went wrong
        with tf.device("/CPU:0"):
            self.text = tf.Variable("", dtype=tf.string)
        self.checkpoint = tf.train.Checkpoint(network=network, state=self.text)

    def steps(self):
        """The steps of all checkpoints whose index, which is written last, is there; the newest first."""
        return sorted((int(path.stem.removeprefix("step-")) for path in self.folder.glob("step-*.index")), reverse=True)

    def keep(self, steps):
        """Remove whatever does not belong to the checkpoints of these steps."""
        names = {f"step-{step}" for step in steps}
        for path in self.folder.glob("step-*"):
            if path.name.partition(".")[0] not in names:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def save(self, step, state):
        """Write a checkpoint in the background; state is anything that JSON can hold.

        Raises UserError if this one, or the one before, cannot be written.
        """
        try:
            self.checkpoint.sync()
            self.keep(self.steps()[:2])
            self.text.assign(json.dumps(state))
            self.newest = step
            self.write()
        except (OSError, tf.errors.OpError) as error:
            raise self.failed(error) from None

    def write(self):
        options = tf.train.CheckpointOptions(experimental_enable_async_checkpoint=True)
        self.checkpoint.write(str(self.folder / f"step-{self.newest}"), options)

    def wait(self):
        """Wait until the last checkpoint is written; UserError if it could not be."""
        try:
            self.checkpoint.sync()
            if self.newest not in [None, *self.steps()]:
                self.write()  # raises what went wrong in the background thread
                self.checkpoint.sync()
        except (OSError, tf.errors.OpError) as error:
            raise self.failed(error) from None
        if self.newest not in [None, *self.steps()]:
            raise self.failed("; it is not there")

    def failed(self, error):
        reason = str(getattr(error, "message", error)).splitlines()[0].rpartition("; ")[2].partition(" [Op")[0]
        return UserError(f"{self.folder}: cannot write the checkpoint ({reason}); make room, then start again to go on")

    def restore(self):
        """Restore the newest checkpoint that is whole and return its state; None if there is no checkpoint.

        Raises UserError if there are some but none is whole.
        """
        steps = self.steps()
        for number, step in enumerate(steps):
            try:
                read = self.checkpoint.read(str(self.folder / f"step-{step}"))
                read.assert_existing_objects_matched().expect_partial()
                state = json.loads(self.text.numpy())
            except (tf.errors.OpError, OSError, ValueError, IndexError, AssertionError):
                print(f"{self.folder.name}: the checkpoint of step {step} is damaged, trying the one before")
                continue
            self.keep(steps[number:])
            return state
        if steps:
            raise UserError(f"{self.folder}: no checkpoint is whole; --restart begins anew and keeps the curve so far")
        return None

    def delete(self):
        """Remove all checkpoints of the run."""
        shutil.rmtree(self.folder, ignore_errors=True)
