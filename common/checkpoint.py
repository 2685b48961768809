"""What a run needs to resume: its state in one file, and the lock on its files.

The state file is NAME.npz: each of the network's variables under its own name (conv1/weights, ...), and everything else
as JSON in the entry "run". numpy.load reads it. While a run lasts the file is its checkpoint; when the run is complete
it is kept as its weights.
"""

import contextlib
import fcntl
import io
import json
import shutil
import zipfile

from common.cli import UserError, say
from common.results import UNSUPPORTED, replacing
import numpy as np


@contextlib.contextmanager
def lock(path, name):
    """Lock the file at path until the block, or the process, ends; UserError if another run has locked it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{name}: another run is writing its files; wait, or name another --results-dir") from None
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            say(f"{path.parent}: no locks on this file system; start {name} only once at a time")
        yield


def variables_by_name(network):
    """{name: variable} of all the network's variables; UserError if two have the same name."""
    variables = {variable.name.partition(":")[0]: variable for variable in network.variables}
    if len(variables) < len(network.variables):
        raise UserError(f"{type(network).__name__}: two variables have the same name; give each a name= of its own")
    return variables


def save(path, network, run):
    """Write the state file at path: the network's variables and run, anything that JSON can hold.

    Raises OSError, naming path, and leaves the file that was there.
    """
    arrays = {name: variable.numpy() for name, variable in variables_by_name(network).items()}
    with replacing(path) as file:
        np.savez(file, run=np.array(json.dumps(run)), **arrays)


def load(path):
    """Read the state file at path: ({name: array}, run).

    Raises FileNotFoundError if there is none, and UserError if it cannot be read or is damaged: a cut, a flipped bit.
    """
    try:
        content = io.BytesIO(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; nothing was changed. Make it readable and run the same command again."
        ) from None
    try:
        with zipfile.ZipFile(content) as entries:
            if damaged := entries.testzip():
                raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        content.seek(0)
        with np.load(content) as entries:
            arrays = dict(entries)
        return arrays, json.loads(arrays.pop("run").item())
    except MemoryError:
        raise
    except Exception as error:  # zipfile and NumPy raise many kinds of errors on damaged bytes
        raise UserError(
            f"{path}: damaged ({error}). Restore it from a copy, or start over with --restart, which moves it aside."
        ) from None


def restore(network, arrays, path):
    """Assign to the network what load read from path; UserError if that is not this network's variables."""
    variables = variables_by_name(network)
    shapes = [{name: tuple(each.shape) for name, each in both.items()} for both in (variables, arrays)]
    if shapes[0] != shapes[1]:
        raise UserError(f"{path}: the variables of another network; name or restore the right file")
    for name, variable in variables.items():
        variable.assign(arrays[name])


def require_disk_space(path, network):
    """UserError unless the disk has room for the state file at path and for the next one, which replaces it."""
    size = sum(variable.dtype.size * variable.shape.num_elements() for variable in network.variables)
    need, free = size * (1 if path.exists() else 2), shutil.disk_usage(path.parent).free
    if free < need:
        what = f"{free / 1e6:.0f} MB are free, a run's checkpoints take {need / 1e6:.0f}"
        raise UserError(f"{path.parent}: {what}; make room, or name another --results-dir")
