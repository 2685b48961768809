"""The figures behind README's verdicts, from the committed files: plateau ends, their p-value, gap slopes, mean losses.

python -m tests.evidence   (prints the tables of results/evidence.txt; a second)
"""

import functools
import itertools
import math
from pathlib import Path
import re
import textwrap

from common.cli import Parser
from common.results import Iteration, read_csv
import numpy as np
import tabulate

RESULTS = Path(__file__).parent.parent / "results"
CHANCE = 200 * math.log(10)  # the loss of a batch of 200 whose ten classes are equally likely
WINDOW = 21  # training losses in a moving mean
# The article's plateau ends, in epochs: of experiments 2 and 3 without groups, of 5 with groups.
ARTICLE_WITHOUT, ARTICLE_WITH = [12, 11], [21]
FIELDS = ("loss", "train_loss")
ERROR = "{:.2f} ± {:.2f}".format


def moving_mean(losses):
    """The mean of up to WINDOW losses around each iteration; fewer at both ends."""
    ones = np.ones(WINDOW)
    return np.convolve(losses, ones, "same") / np.convolve(np.ones(len(losses)), ones, "same")


def first_below(losses, share):
    """The first iteration, counted from 1, whose moving mean is below this share of chance, or None."""
    (below,) = np.nonzero(moving_mean(losses) < share * CHANCE)
    return int(below[0]) + 1 if below.size else None


def permutation_p(earlier, later):
    """(one-sided, two-sided) exact p-value of the sum of later's ranks, all values of both being exchangeable."""
    values = [*earlier, *later]
    sums = [sum(choice) for choice in itertools.combinations(np.argsort(np.argsort(values)), len(later))]
    observed, mean = sums[-1], np.mean(sums)  # the last combination is that of the last values
    far = [abs(total - mean) >= abs(observed - mean) - 1e-9 for total in sums]
    later_or_equal = [total >= observed for total in sums]
    return sum(later_or_equal) / len(sums), sum(far) / len(sums)


def slope(x, y):
    """(slope, standard error) of the least-squares line through the points."""
    (steepness, _), covariance = np.polyfit(x, y, 1, cov=True)
    return steepness, math.sqrt(covariance[0, 0])


def mean_and_error(values):
    """(mean, standard error of the mean)."""
    return np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))


def losses_of(name):
    """The training losses of a run, one an iteration."""
    return [row.train_loss for row in read_csv(RESULTS / "trace" / f"{name}.csv", Iteration)]


def runs(*experiments):
    """The names of the committed runs of these experiments under the article's protocol, in any seed and precision."""
    names = sorted(path.stem for path in (RESULTS / "trace").glob("alexnet*.csv"))
    return [
        name for name in names if re.fullmatch(r"alexnet(\d)(-mixed)?(-seed\d+)?", name) and int(name[7]) in experiments
    ]


def plateau_epoch(rows):
    """The first epoch whose test loss is below 95 % of chance, or "after N" if that of none of the N is yet."""
    return next((row.epoch for row in rows if row.loss < 0.95 * 1000 * math.log(10)), f"after {len(rows)}")


def plateau_line(name):
    """[run, iteration and epoch in which its plateau ends, iterations of the fall from 90 to 10 % of chance]."""
    losses = losses_of(name)
    end, high, low = (first_below(losses, share) for share in (0.95, 0.9, 0.1))
    return [name, end, plateau_epoch(read_csv(RESULTS / f"{name}.csv")), low - high if low else None]


def gap_line(name):
    """[run, slope of the epochs' widest logit gap from epoch 31 on, its largest value, epochs]."""
    rows = [row for row in read_csv(RESULTS / f"{name}.csv") if row.logit_gap is not None]
    late = [(row.epoch, row.logit_gap) for row in rows if row.epoch > 30]
    return [name, ERROR(*slope(*zip(*late))) if len(late) > 2 else None, max(row.logit_gap for row in rows), len(rows)]


def listing(values):
    """The values, with commas between them."""
    return ", ".join(map(str, values))


def counted_epochs(ends):
    """(without groups, with groups): those of ours that count, from each independent run's (name, plateau_epoch).

    A grouped run that is on its plateau after all that are without groups left theirs counts: its rank is known.
    """
    without = [epoch for name, epoch in ends if name[7] == "2" and isinstance(epoch, int)]
    last = max(ARTICLE_WITHOUT + without)
    grouped = [epoch for name, epoch in ends if name[7] == "5"]
    return without, [epoch for epoch in grouped if isinstance(epoch, int) or int(epoch.removeprefix("after ")) >= last]


def compare_plateaus(lines):
    """The sentence on experiments with and without groups, from the plateau lines of independent runs."""
    without, grouped = counted_epochs([(name, epoch) for name, _, epoch, _ in lines])
    ranked = [epoch if isinstance(epoch, int) else math.inf for epoch in grouped]
    one, two = permutation_p(ARTICLE_WITHOUT + without, ARTICLE_WITH + ranked)
    return (
        f"Plateau ends, in epochs: without groups {listing(ARTICLE_WITHOUT)} (the article) and {listing(without)} "
        f"(ours), with groups {listing(ARTICLE_WITH)} (the article) and {listing(grouped)} (ours). Exact p of the rank "
        f"sum: {one:.3f} one-sided, {two:.3f} two-sided. Of experiments 2 and 3, which are one run up to epoch 30, and "
        "of a seed in two precisions, one counts."
    )


def independent(names):
    """One run of each experiment and seed, in float32 where there is one."""
    return [name for name in names if "-mixed" not in name or name.replace("-mixed", "") not in names]


def compare_losses(one, other):
    """The sentence on two runs' losses in the epochs from 41 to 49."""
    curves = [read_csv(RESULTS / f"{name}.csv")[:49] for name in (one, other)]
    pairs = [(a.loss, b.loss) for a, b in zip(*curves)]
    lower = [sum(a < b for a, b in pairs[first:]) for first in (40, 20)]
    means = [
        [ERROR(*mean_and_error([getattr(row, field) for row in rows[40:]])) for rows in curves] for field in FIELDS
    ]
    return (
        f"{one} against {other}, epochs 41 to 49, mean and standard error: test loss {means[0][0]} and {means[0][1]}, "
        f"lower in {lower[0]} of 9 epochs and in {lower[1]} of the 29 from 21 on; training loss {means[1][0]} and "
        f"{means[1][1]}."
    )


def main():
    names = runs(2, 3, 4, 5, 6)
    lines = [plateau_line(name) for name in names]
    table = functools.partial(tabulate.tabulate, tablefmt="simple", missingval="-", floatfmt=".1f")
    headers = ["run", "plateau ends, iteration", "epoch", "iterations from 90 to 10 %"]
    print(table(lines, headers=headers, colalign=("left", "right", "right", "right")))
    print(f"Iteration: the first whose moving mean of {WINDOW} training losses is below 95 % of chance.\n")
    kept = independent([name for name in names if name[7] in "25"])
    plateaus = compare_plateaus([line for line in lines if line[0] in kept])
    print(textwrap.fill(plateaus, 80, break_on_hyphens=False) + "\n")
    print(
        table([gap_line(name) for name in names], headers=["run", "gap's slope from epoch 31", "widest gap", "epochs"])
    )
    print("Slope of the epoch's widest logit gap, an epoch, by least squares, with its error.\n")
    print(textwrap.fill(compare_losses("alexnet6-mixed", "alexnet4-mixed"), 80))


if __name__ == "__main__":
    Parser(__doc__).parse_args()
    main()
