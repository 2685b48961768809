"""What python -m tests.precision prints of a pair of runs."""

from common.cli import UserError
from common.results import Iteration, Row, write_csv
import pytest

from tests import precision


def write(folder, name, epochs, loss):
    """A run of epochs of 150 iterations, with a training loss that grows by loss in each; returns its curve's path."""
    (folder / "trace").mkdir(exist_ok=True)
    write_csv(folder / name, [Row(epoch + 1, 10 * loss, 0.5) for epoch in range(epochs)])
    losses = [Iteration(n + 1, n * loss, 0.5, 1.0) for n in range(150 * epochs)]
    write_csv(folder / "trace" / name, losses)
    return str(folder / name)


def test_first_epoch_by_hundreds_and_common_evaluations(tmp_path, capsys):
    precision.main([write(tmp_path, "a.csv", 2, 1.0), write(tmp_path, "a-mixed.csv", 1, 2.0)])
    assert [line.split() for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["a,", "a-mixed"],
        ["iterations", "1", "to", "100", "49.50", "99.00"],
        ["iterations", "101", "to", "150", "124.50", "249.00"],
        ["test,", "epoch", "1", "10.00", "20.00", "0.500", "0.500"],
    ]


@pytest.mark.parametrize("names", [["a.csv"], ["a.csv", "b.csv"]])
def test_unpaired_and_missing_curves_are_refused(names):
    with pytest.raises(UserError):
        precision.main(names)


def test_no_curves_are_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        precision.main([])
    assert "required: CSV" in capsys.readouterr().err
