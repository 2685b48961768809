"""What a run needs to go on: its checkpoints, the code that they belong to, and the lock on its files."""

import ast
import fcntl
import hashlib
import io
import json
import logging
import os
from pathlib import Path
import shutil
import tokenize

from common.cli import UserError, say
from common.session import tf
import numpy as np

# The modules beside this one that decide what a run computes. What else it imports from there only handles it.
COMPUTING = ("data", "input", "lrn", "session", "step", "training")


def lock(folder, name):
    """Hold folder/NAME.lock until the process ends, however it ends; UserError if another run holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o666)  # never closed
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{name}: another run is writing its files; wait, or name another --results-dir") from None


def bare(text):
    """The lines of Python code that are left without docstrings, comments and blank lines."""
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            for row in range(node.body[0].lineno, node.body[0].end_lineno + 1):
                lines[row - 1] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())


def what_computes(script):
    """{file or library: digest or version} of everything that decides what a run of script computes."""
    files = {script.name: script, **{f"common/{name}.py": Path(__file__).with_name(f"{name}.py") for name in COMPUTING}}
    codes = {name: bare(path.read_text("utf-8")).encode() for name, path in files.items()}
    digests = {name: hashlib.sha256(code).hexdigest()[:12] for name, code in codes.items()}
    return {**digests, "TensorFlow": tf.__version__, "NumPy": np.__version__}


def write(checkpoint, path):
    """Write a tf.train.Checkpoint as path.index and path.data-...; UserError if that fails."""
    try:
        checkpoint.write(str(path))
    except (OSError, tf.errors.OpError) as error:
        reason = str(getattr(error, "message", error)).splitlines()[0].rpartition("; ")[2].partition(" [Op")[0]
        raise UserError(f"{path}: cannot be written ({reason}); make room, then start again to go on") from None


class Checkpoints:
    """The checkpoints of one run in a folder of its own, named by a step that grows.

    A checkpoint holds the network's variables and, in the same file, a JSON text with the rest of the run's state, so
    that the two cannot disagree. The one before the newest is kept too.
    """

    def __init__(self, folder, network):
        self.folder = folder
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # failed() says in one line what went wrong
        with tf.device("/CPU:0"):
            self.text = tf.Variable("", dtype=tf.string)
        self.checkpoint = tf.train.Checkpoint(network=network, state=self.text)
        self.bytes = sum(variable.dtype.size * variable.shape.num_elements() for variable in network.variables)

    def steps(self):
        """The steps of all checkpoints whose index, which is written last, is there; the newest first."""
        return sorted((int(path.stem.removeprefix("step-")) for path in self.folder.glob("step-*.index")), reverse=True)

    def keep(self, steps):
        """Remove whatever does not belong to the checkpoints of these steps."""
        names = {f"step-{step}" for step in steps}
        for path in self.folder.glob("step-*"):
            if path.name.partition(".")[0] not in names:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def need_room(self):
        """UserError if the two checkpoints of a run do not fit on its disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        here = sum(path.stat().st_size for path in self.folder.glob("step-*") if path.is_file())
        need, free = 2 * self.bytes - here, shutil.disk_usage(self.folder).free
        if free < need:
            what = f"{free / 1e6:.0f} MB are free, a run's checkpoints take {need / 1e6:.0f}"
            raise UserError(f"{self.folder}: {what}; make room, or name another --results-dir")

    def save(self, step, state):
        """Write a checkpoint, unless there is one of this step; state is anything that JSON can hold.

        Raises UserError if it cannot be written.
        """
        steps = self.steps()
        if step not in steps:
            self.keep(steps[:1])
            self.text.assign(json.dumps(state))
            write(self.checkpoint, self.folder / f"step-{step}")

    def restore(self, accept):
        """Restore the newest checkpoint that is whole and return its state; None if there is no checkpoint.

        accept(state) may refuse, by a UserError, before the network is touched. Raises UserError if there are
        checkpoints but none is whole.
        """
        steps = self.steps()
        for number, step in enumerate(steps):
            path = str(self.folder / f"step-{step}")
            try:
                text = tf.train.load_checkpoint(path).get_tensor("state/.ATTRIBUTES/VARIABLE_VALUE")
                state = json.loads(text)
                accept(state)
                self.checkpoint.read(path).assert_existing_objects_matched().expect_partial()
            except (tf.errors.OpError, OSError, ValueError, IndexError, AssertionError):
                say(f"{self.folder.name}: the checkpoint of step {step} is damaged, trying the one before")
                continue
            self.keep(steps[number:])
            return state
        if steps:
            raise UserError(f"{self.folder}: no checkpoint is whole; --restart begins anew and keeps the curve so far")
        return None

    def delete(self):
        """Remove all checkpoints of the run, the indexes first: what a kill leaves of the others is no checkpoint."""
        for path in self.folder.glob("*.index"):
            path.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)
