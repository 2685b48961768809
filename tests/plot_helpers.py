"""What the tests of curves, pictures and tables share: runs written as the training loop would write them."""

import math

from common.results import Iteration, Row, write_csv, write_record

NAN, INF = math.nan, math.inf


def make_run(folder, name, losses, accuracies=None, record=True, nan_weights=None, epochs=None, cause=None, gap=None):
    """Write a run of the given losses, 2 seconds an epoch, and return its CSV's path.

    cause is (kind, epoch, iteration, logit gap) of the first loss that was not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    accuracies = accuracies or [0.085 if math.isnan(loss) else 0.95 if loss < 300 else 0.1 for loss in losses]
    rows = []
    for epoch, (loss, accuracy) in enumerate(zip(losses, accuracies), start=1):
        trained = nan_weights is None or epoch < nan_weights
        measured = (loss / 5, accuracy, 2.0) if trained else (None, None, None)
        rows.append(Row(epoch, loss, accuracy, *measured, gap and gap[epoch - 1]))
    write_csv(folder / f"{name}.csv", rows)
    if record:
        facts = {"complete": epochs is None, "arguments": {"epochs": epochs or len(losses)}}
        facts["nan_weights"] = nan_weights and {"epoch": nan_weights, "iteration": 7}
        facts["nan_cause"] = cause and dict(zip(("cause", "epoch", "iteration", "logit_gap"), cause))
        write_record(folder / f"{name}.json", {"experiment": name[:8], **facts})
    return folder / f"{name}.csv"


def make_trace(folder, name, length, gap, nan=False):
    """Write a trace beside a run's CSV: accuracies from 0.1, the last loss NaN if nan."""
    (folder / "trace").mkdir(exist_ok=True)
    rows = [Iteration(i, 900.0, 0.1 + 0.9 * (i - 1) / length, gap + i % 2) for i in range(1, length + 1)]
    if nan:
        rows[-1] = rows[-1]._replace(train_loss=NAN, logit_gap=88.0)
    write_csv(folder / "trace" / f"{name}.csv", rows)


def plateau(epoch, length=10, low=40.0):
    """Losses on the plateau until an epoch, then low."""
    return [2300.0 if e < epoch else low for e in range(1, length + 1)]
