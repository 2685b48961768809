"""Whether bfloat16 changes an experiment: runs with the same seed in float32 and in --precision mixed, side by side.

python -m tests.precision FLOAT32.csv MIXED.csv [FLOAT32.csv MIXED.csv ...]

For each pair and the epochs that both have: the mean training loss of every hundred iterations of the first epoch, then
loss and accuracy of each evaluation.
"""

from pathlib import Path

from common.cli import Parser, UserError, user_errors
from common.results import Iteration, read_csv
import numpy as np


def read(curve):
    """The rows and training losses of a run, from the path of its curve; its trace is in trace/ beside it."""
    return read_csv(curve), [one.train_loss for one in read_csv(curve.parent / "trace" / curve.name, Iteration)]


def compare(one, other):
    """Yield the lines of one pair of (rows, training losses)."""
    epochs = min(len(rows) for rows, _ in (one, other))
    first = min(len(losses) // len(rows) for rows, losses in (one, other))
    for begin in range(0, first, 100):
        means = [np.mean(losses[begin : min(begin + 100, first)]) for _, losses in (one, other)]
        yield f"  iterations {begin + 1:3} to {min(begin + 100, first):3}{means[0]:12.2f}{means[1]:12.2f}"
    for epoch in range(epochs):
        rows = one[0][epoch], other[0][epoch]
        shown = "".join(f"{row.loss:12.2f}" for row in rows) + "   " + " ".join(f"{row.accuracy:.3f}" for row in rows)
        yield f"  test, epoch {epoch + 1:<9}{shown}"


def main(arguments=None):
    parser = Parser(__doc__)
    parser.add_argument("paths", nargs="+", type=Path, metavar="CSV", help="curves in pairs")
    paths = parser.parse_args(arguments).paths
    if len(paths) % 2:
        raise UserError("python -m tests.precision: name curves in pairs, FLOAT32.csv MIXED.csv")
    print(f"{'':22}{'float32':>12}{'mixed':>12}   accuracy")
    for pair in zip(paths[::2], paths[1::2]):
        print(f"{pair[0].stem}, {pair[1].stem}", *compare(*map(read, pair)), sep="\n")


if __name__ == "__main__":
    with user_errors():
        main()
