"""The tables of groups of runs: the article's figures beside ours, and a line per run."""

import math
import statistics

from common.plots.curves import article
import tabulate

EPOCHS = (1, 12, 21, 50)  # at which the article's figures and ours are compared
COMPARED = f"""\
plateau ends: the first epoch with a loss below 95 % of chance. NaN: the first
epoch with a NaN loss, and its kind: log(0), finite logits so far apart that a
softmax entry is 0; explosion, logits not finite or 10,000 apart; ?, no record.
Epochs {", ".join(map(str, EPOCHS))}: test loss and accuracy. best: the highest accuracy.
Several runs: their median, at epochs and as best of those that came furthest;
2/3: of 2 runs of 3. Empty: not reported by the article, or not trained so far."""
DETAILED = """\
NaN by, in: why and at which epoch:iteration a loss first was not finite (?: no
record). gap: the widest between two logits, there or of all epochs.
NaN weights: the first epoch with NaN weights."""


def render(lines, headers, width, markdown):
    """Return a table as Markdown, or as text whose first column is folded to a width."""
    padding, tabulate.MIN_PADDING = tabulate.MIN_PADDING, 0
    try:
        return tabulate.tabulate(
            lines,
            headers if markdown else [header.replace(" ", "\n") for header in headers],
            tablefmt="pipe" if markdown else "simple",
            colalign=["left", *["right"] * (len(headers) - 1)],
            maxcolwidths=None if markdown else [width, *[None] * (len(headers) - 1)],
            disable_numparse=True,
        )
    finally:
        tabulate.MIN_PADDING = padding


def format_number(value):
    """Return a number in about five characters: 0.034, 26.0, 2303, 1e+12, nan, inf."""
    if value and not 0.01 <= abs(value) < 1e5:
        return f"{value:.0e}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.{2 if abs(value) < 1 else 3}g}"


def format_accuracy(value):
    """0.988: an accuracy in three decimals."""
    return f"{value:.3f}"


def summarise(values, show, pick=statistics.median, separator=" "):
    """Show pick of the finite values; 12 2/3: 2 of 3 are finite; - or nan: none is."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if not finite:
        return next((show(value) for value in values if value is not None), "-")
    return show(pick(finite)) + (f"{separator}{len(finite)}/{len(values)}" if len(finite) < len(values) else "")


def first_epoch(curve, condition):
    """The first epoch of {epoch: (loss, accuracy)} whose loss meets a condition, else None."""
    return next((epoch for epoch in sorted(curve) if condition(curve[epoch][0])), None)


def summary_cells(curves, nan_kinds, chance, separator, pick=statistics.median):
    """Return the cells of some {epoch: (loss, accuracy)}: plateau, NaN, loss and accuracy at EPOCHS, best accuracy.

    The medians at EPOCHS and the best accuracy are of the runs that came furthest.
    """

    def summary(values, show):
        return summarise(values, show, pick, separator.replace(",", ""))

    plateau_ends = [first_epoch(curve, lambda loss: loss < 0.95 * chance) for curve in curves]
    nan = summary([first_epoch(curve, math.isnan) for curve in curves], "{:g}".format)
    cells = [summary(plateau_ends, "{:g}".format), separator.join([nan, *sorted(nan_kinds)])]
    furthest = [curve for curve in curves if len(curve) == max(map(len, curves))]
    for epoch in EPOCHS:
        reached = [curve[epoch] for curve in (furthest if pick is statistics.median else curves) if epoch in curve]
        losses, accuracies = [loss for loss, _ in reached], [accuracy for _, accuracy in reached]
        texts = [summary(losses, format_number), summary(accuracies, format_accuracy)] if reached else []
        cells.append(separator.join(texts))
    best = [max(accuracy for _, accuracy in curve.values()) for curve in furthest]
    return [*cells, summary(best, format_accuracy)]


def nan_kind(run):
    """Why a loss of a run was not finite; None if all were."""
    if run.cause == "?":
        return "?" if any(math.isnan(row.loss) for row in run.rows) else None
    return run.cause and run.cause[0]


def group_lines(group, separator):
    """Return the lines of a group in the table: the median of its runs and, if they differ, the lowest and highest."""
    curves = [{row.epoch: (row.loss, row.accuracy) for row in run.rows} for run in group.runs]
    name = [str(group.number), *([] if group.variant_tags or group.folder else ["ours"]), *group.tags]
    name += [group.folder] * bool(group.folder)
    name += [f"({note})" for note in group.unfinished_note()]
    chance, kinds = group.test_images * math.log(10), {nan_kind(run) for run in group.runs} - {None}
    low, high = (summary_cells(curves, [], chance, separator, pick) for pick in (min, max))
    lines = [[" ".join(name), len(group.runs), *summary_cells(curves, kinds, chance, separator)]]
    return lines + ([["lowest", "", *low], ["highest", "", *high]] if low != high else [])


def comparison(groups, missing_experiments=(), markdown=False):
    """Return the table of the article's figures and ours as text of 80 columns, loss above accuracy, or as Markdown.

    The article's figures of missing_experiments are shown although no group is of them.
    """
    separator, lines = ", " if markdown else "\n", []
    for number in sorted({*missing_experiments, *(group.number for group in groups)}):
        curve = article().get(number)
        if curve:
            lines.append([f"{number} the article", 1, *summary_cells([curve], [], 1000 * math.log(10), separator)])
        for group in groups:
            if group.number == number:
                lines += group_lines(group, separator)
    headers = ["experiment", "runs", "plateau ends", "NaN", *(f"epoch {epoch}" for epoch in EPOCHS), "best"]
    return render(lines, headers, 16, markdown)


def details(groups, markdown=False):
    """Return the table of single runs: epochs, speed, why a loss was not finite, logit gap."""
    lines = []
    for run, folder in [(run, group.folder) for group in groups for run in group.runs]:
        seconds = [row.seconds for row in run.rows if row.seconds is not None]
        gaps = [row.logit_gap for row in run.rows if row.logit_gap is not None]
        kind, place, gap = run.cause or "-", "", summarise(gaps, format_number, max)
        if isinstance(run.cause, tuple):
            kind, epoch, iteration, gap = run.cause
            place, gap = f"{epoch}:{iteration or 'test'}", format_number(gap)
        name = f"{run.path.stem.removeprefix('alexnet').replace('-', ' ')} {folder}".rstrip()
        speed = format_number(statistics.median(seconds)) if seconds else "-"
        weights = {None: "-", 0: "?"}.get(run.nan_weights, run.nan_weights)
        lines.append([name, f"{len(run.rows)} of {run.epochs}", speed, kind, place, gap, weights])
    return render(lines, ["run", "epochs", "s per epoch", "NaN by", "NaN in", "gap", "NaN weights"], 26, markdown)
