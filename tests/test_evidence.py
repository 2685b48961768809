"""The arithmetic of tests/evidence.py on values whose answer is known, and its committed output."""

import math

from common.results import Row
from evidence import (
    CHANCE,
    RESULTS,
    compare_plateaus,
    first_below,
    independent,
    main,
    mean_and_error,
    permutation_p,
    plateau_epoch,
    slope,
)
import pytest


def test_a_plateau_ends_where_the_moving_mean_falls():
    losses = [CHANCE] * 100 + [0] * 100
    assert first_below(losses, 0.95) == 92  # 2 of the 21 losses around it are 0
    assert first_below([CHANCE] * 50, 0.95) is None


def test_the_exact_p_value_counts_rank_sums():
    assert permutation_p([1, 2, 3], [4, 5]) == (0.1, 0.2)
    assert permutation_p([12, 11, 13], [21, 26, 30]) == (0.05, 0.1)
    assert permutation_p([4, 5], [1, 2, 3])[0] == 1.0


def test_slope_and_mean_have_their_errors():
    assert slope([1, 2, 3, 4], [3, 5, 7, 9]) == pytest.approx((2, 0), abs=1e-6)
    assert slope([1, 2, 3], [0, 2, 1]) == pytest.approx((0.5, math.sqrt(0.75)))
    assert mean_and_error([1, 3]) == (2, 1)


def test_a_seed_in_two_precisions_counts_once():
    names = ["alexnet2", "alexnet2-mixed", "alexnet2-mixed-seed1", "alexnet5-mixed"]
    assert independent(names) == ["alexnet2", "alexnet2-mixed-seed1", "alexnet5-mixed"]


def test_a_plateau_ends_with_the_first_epoch_below_chance():
    rows = [Row(epoch, loss, 0.1, 460.5, 0.1) for epoch, loss in enumerate([2303, 2300, 2100], 1)]
    assert plateau_epoch(rows) == 3
    assert plateau_epoch(rows[:2]) == "after 2"


def test_a_run_still_on_its_plateau_counts_once_its_rank_is_known():
    lines = [["alexnet2", 3408, 12, 358], ["alexnet5-mixed", 7541, 26, 355], ["alexnet5-seed1", None, "after 11", None]]
    assert "26 (ours)" in compare_plateaus(lines) and "0.100 one-sided" in compare_plateaus(lines)
    lines[-1][2] = "after 12"
    assert "26, after 12 (ours)" in compare_plateaus(lines) and "0.050 one-sided" in compare_plateaus(lines)


def test_the_committed_output_is_that_of_the_committed_runs(capsys):
    main()
    assert capsys.readouterr().out == (RESULTS / "evidence.txt").read_text("utf-8")
