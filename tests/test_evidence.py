"""The arithmetic of tests/evidence.py on values whose answer is known, and its committed output."""

import math

from evidence import CHANCE, RESULTS, first_below, independent, main, mean_and_error, permutation_p, slope
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


def test_the_committed_output_is_that_of_the_committed_runs(capsys):
    main()
    assert capsys.readouterr().out == (RESULTS / "evidence.txt").read_text("utf-8")
