"""The two files of a run: the curve, NAME.csv, and the record, NAME.json.

NAME is the experiment followed by whatever sets the run apart from the article's protocol
(``alexnet6-epochs2-train2000``, ``alexnet2-seed1``), so that a shortened run is never mistaken for a full one.
This module does not import TensorFlow.
"""

import contextlib
import csv
import errno
import io
import json
import math
import os
from pathlib import Path
from typing import NamedTuple

from common.cli import UserError

# The errors of operations that a file system lacks: NFS, Lustre and FUSE mounts lack flock or the fsync of a folder.
UNSUPPORTED = {errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
EXPLOSION = 1e4  # a convention: the logit gap from which a NaN loss is called an explosion


class Row(NamedTuple):
    """One epoch of a curve; the fields with a default are None where the epoch was filled in, not trained.

    epoch           counted from 1
    loss            cross-entropy, summed over the test images
    accuracy        share of the test images, 0 to 1
    train_loss      cross-entropy summed over a batch, mean over the epoch's batches
    train_accuracy  share of the epoch's training images, 0 to 1
    seconds         training and evaluation of this epoch, None also where NaN weights cut it short
    logit_gap       largest logit minus smallest, the widest of the epoch's training images
    """

    epoch: int
    loss: float
    accuracy: float
    train_loss: float | None = None
    train_accuracy: float | None = None
    seconds: float | None = None
    logit_gap: float | None = None


class Iteration(NamedTuple):
    """One row of a trace: iteration counted from 1 over all epochs, the rest as in Row, for one training batch."""

    iteration: int
    train_loss: float
    train_accuracy: float
    logit_gap: float


def sync_folder(path):
    """Make what was renamed or removed in a folder survive a power cut, where its file system can."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(folder)


@contextlib.contextmanager
def replacing(path):
    """Write a binary file that replaces path at the end: old or new, never half, even after a power cut.

    An OSError names path, and leaves the old file.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        error.filename = str(path)
        raise


def write_text(path, text):
    """Replace the file at path by text in UTF-8."""
    with replacing(Path(path)) as file:
        file.write(text.encode())


def write_csv(path, rows):
    """Write a list of Row, or of Iteration; None becomes an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0]._fields)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_csv(path, kind=Row):
    """Read a curve back as a list of Row, or a trace as a list of Iteration.

    Raises UserError, naming file and line, unless the columns begin with the required fields of kind and the
    first one counts 1, 2, 3, ... without gap. Columns that kind does not have are ignored.
    """
    needed = [field for field in kind._fields if field not in kind._field_defaults]
    count = needed[0]

    def bad(line, what):
        return UserError(f"{path}, line {line}: {what}; restore it from git, or run its experiment with --restart")

    try:
        text = Path(path).read_bytes().decode("utf-8-sig")  # Excel begins with a byte-order mark
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; name a CSV that a run has written") from None
    except UnicodeDecodeError:
        raise bad(1, "not UTF-8 text") from None
    lines = text.splitlines()
    table = csv.DictReader(lines, quoting=csv.QUOTE_NONE)
    try:
        header, records = table.fieldnames or [], list(table)
    except csv.Error as error:
        raise bad(table.line_num, str(error)) from None
    if header[: len(needed)] != needed or len(set(header)) < len(header):
        raise bad(1, f"the columns do not begin with {','.join(needed)}")
    if not text.endswith("\n"):
        raise bad(len(lines), "cut off in the middle of a row")
    if "" in lines:
        raise bad(lines.index("") + 1, "an empty line")
    if not records:
        raise bad(1, "no rows below the header")
    rows = []
    for number, record in enumerate(records, start=2):
        if None in record or None in record.values():
            raise bad(number, f"not {len(header)} fields, as in the header")
        try:
            values = {key: float(cell) if cell else None for key, cell in record.items() if key in kind._fields}
        except ValueError as error:
            raise bad(number, str(error)) from None
        if values[count] != number - 1:
            raise bad(number, f"{count} {record[count]!r} instead of {number - 1}")
        if None in [values[key] for key in needed] or not 0 <= values.get("accuracy", 0) <= 1:
            raise bad(number, "an empty field, or an accuracy outside 0 to 1")
        values[count] = number - 1
        rows.append(kind(**values))
    return rows


def write_record(path, record):
    """Write a dict as strict JSON; a NaN or an infinity in it becomes the string that Python prints for it."""

    def strict(value):
        if isinstance(value, dict):
            return {key: strict(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [strict(item) for item in value]
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    write_text(path, json.dumps(strict(record), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_record(path):
    """Read a record back as a dict; UserError if it is missing or not JSON."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: {error}; restore it from git, or run its experiment with --restart") from None
    if not isinstance(record, dict):
        raise UserError(f"{path}: not a run's record; restore it from git, or run its experiment with --restart")
    return record


def complete(csv_path, record_path, epochs):
    """Whether both files exist and are those of a run that reached its last epoch."""
    if not (csv_path.exists() and record_path.exists()):
        return False
    return read_record(record_path).get("complete") is True and len(read_csv(csv_path)) == epochs
