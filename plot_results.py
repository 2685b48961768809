"""Plot test loss and test accuracy against the epoch from results/*.csv, and print a summary table.

Runs that differ only in the seed form a group: its line is the median, its band the range, epoch by epoch. A NaN or
infinite loss leaves the median and the range of its epoch, and the line stops where less than half of the seeds have
a finite loss; a cross marks a seed's last finite loss, and the strip above the plot shows every epoch that is NaN or
infinite, seed by seed. Accuracy counts all seeds (NaN weights score 0.085: they answer 0 for every image). A group
that is not the article's protocol is dashed and labelled with its own name, such as alexnet7-fused.
"""

import math
from pathlib import Path
import re
import statistics
import sys
import textwrap
from typing import NamedTuple

from common.cli import Parser, UserError, user_errors
from common.results import Iteration, Row, read_csv, read_record
import matplotlib
from matplotlib.lines import Line2D
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

RESULTS = Path(__file__).resolve().parent / "results"
NAN = math.nan
# What the article reports of its own runs: {experiment: {epoch: (test loss, test accuracy)}}; no figures of 7.
ARTICLE = {
    1: {epoch: (NAN, 0.085) for epoch in (1, 2, 3, 4)},
    2: {1: (2299.4792, 0.122), 2: (2299.8113, 0.117), 11: (2293.2812, 0.125), 12: (1955.1497, 0.391)}
    | {13: (353.29596, 0.866), 14: (146.65419, 0.954), 44: (36.49175, 0.99), 45: (22.933325, 0.986)}
    | {46: (35.3011, 0.99)}
    | {epoch: (NAN, 0.085) for epoch in (47, 48, 49, 50)},
    3: {1: (2300.436, 0.117), 2: (2299.375, 0.13), 10: (2290.4155, 0.154), 11: (678.09644, 0.788)}
    | {12: (178.35306, 0.948), 49: (35.42096, 0.988), 50: (34.458153, 0.988)},
    4: {1: (170.07048, 0.936), 2: (86.70665, 0.972), 50: (26.004112, 0.99)},
    5: {1: (2297.4663, 0.104), 2: (2299.2734, 0.124), 21: (2114.1978, 0.301), 22: (366.07996, 0.872)}
    | {49: (44.795494, 0.992), 50: (37.983482, 0.988)},
    6: {1: (44.443394, 0.979), 2: (34.873466, 0.988), 49: (13.521537, 0.992), 50: (10.757448, 0.991)},
    7: {},
}
# Label, marker and colour of each experiment: Okabe and Ito's colours without the yellow.
LOOKS = {
    1: ("1 default initial values", "o", "#E69F00"),
    2: ("2 stddev 0.01", "s", "#D55E00"),
    3: ("3 step learning-rate decay", "^", "#0072B2"),
    4: ("4 get_variable", "D", "#009E73"),
    5: ("5 grouped conv4/5", "v", "#000000"),
    6: ("6 batch norm", "P", "#CC79A7"),
    7: ("7 batch norm, default initial values", "p", "#56B4E9"),
}
DASHES = ((0, (4, 1.5)), (0, (1.5, 1.2)), (0, (7, 1.5, 1.5, 1.5)), (0, (10, 2)))
GREY = "#666666"
EPOCHS = (1, 12, 21, 50)  # at which the article's figures and ours are set side by side
UNDERFLOW = 87.3  # -ln of the smallest normal float32: from this logit gap on a softmax entry is flushed to 0
CROSS = dict(linestyle="", marker="x", markersize=8, markeredgewidth=2, clip_on=False, in_layout=False, zorder=5)
HOLLOW = dict(linestyle="", markersize=8, markerfacecolor="none", clip_on=False, in_layout=False, zorder=4)
STYLE = {f"axes.spines.{side}": False for side in ("right", "top")} | {"axes.edgecolor": "#BBBBBB", "font.size": 9.5}
STYLE |= {
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E9E9E9",
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
}
STYLE |= {"legend.frameon": False, "savefig.dpi": 150, "svg.hashsalt": "alexnet", "lines.linewidth": 1.6}


class Run(NamedTuple):
    """A CSV with what its record adds; without a record it passes for complete.

    rows         list of Row, epochs 1, 2, 3, ...
    epochs       how many epochs the run is to have
    nan_weights  the epoch in which the weights turned NaN; None: they did not; 0: no record tells
    cause        of the first loss that was not finite: (kind, epoch, iteration or None, logit gap), or None
    """

    rows: list[Row]
    epochs: int
    nan_weights: int | None
    cause: tuple | None

    def finite_epochs(self):
        """How many epochs pass before the first NaN or infinite loss."""
        return next((row.epoch - 1 for row in self.rows if not math.isfinite(row.loss)), len(self.rows))

    def breaks(self):
        """Whether the loss is ever NaN or infinite."""
        return self.finite_epochs() < len(self.rows)


def load_run(path):
    """Read NAME.csv, and NAME.json if it is there."""
    rows, record_path = read_csv(path), path.with_suffix(".json")
    if not record_path.exists():
        return Run(rows, len(rows), 0, None)
    record = read_record(record_path)
    try:
        epochs = len(rows) if record["complete"] else int(record["arguments"]["epochs"])
        nan_weights = record["nan_weights"]
        cause = record.get("nan_cause")
        if cause:
            cause = str(cause["cause"]), int(cause["epoch"]), cause["iteration"], float(cause["logit_gap"])
        return Run(rows, epochs, nan_weights and int(nan_weights["epoch"]), cause)
    except (KeyError, OverflowError, TypeError, ValueError):
        what = "not a run's record; restore it from git, or run its experiment with --restart"
        raise UserError(f"{record_path}: {what}") from None


def load_groups(paths):
    """Return {group: list of Run} of CSV files and folders, sorted; a group is named as its runs are, less the seed."""
    files = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; name a CSV that a run has written, or its folder")
        found = sorted(path.glob("*.csv")) if path.is_dir() else [path]
        if not found:
            raise UserError(f"{path}: no CSV in this folder; train first (python alexnet1.py), or name another folder")
        for file in found:
            if not re.fullmatch(r"alexnet[1-7](-[a-z0-9]+)*\.csv", file.name):
                raise UserError(f"{file}: not a run's name, such as alexnet2-seed1.csv; rename it or move it away")
            if not files.setdefault(file.name, file).samefile(file):
                raise UserError(f"{file}: {files[file.name]} has the same name; rename one, or plot them apart")
    groups = {}
    for name in sorted(files):
        group = re.sub(r"-seed\d+(?=-|$)", "", name.removesuffix(".csv"))
        groups.setdefault(group, []).append(load_run(files[name]))
    return dict(sorted(groups.items()))


def experiment(group):
    """alexnet6-fused -> 6."""
    return int(group[len("alexnet")])


def images(group):
    """alexnet6-test500 -> 500, the test images; 1,000 unless the name says otherwise."""
    return int((re.search(r"-test(\d+)", group) or [0, 1000])[1])


def progress(runs):
    """Return ['epoch 12 of 50'] for a run that is not complete, ['2 unfinished'] for two of several, else []."""
    open_runs = [run for run in runs if len(run.rows) < run.epochs]
    if len(runs) > 1:
        return [f"{len(open_runs)} unfinished"] if open_runs else []
    return [f"epoch {len(run.rows)} of {run.epochs}" for run in open_runs]


def spread(runs, field):
    """Return the columns (median, minimum, maximum), a value an epoch, of the finite values; NaN where there is none.

    The median is NaN too where less than half of the runs that reached the epoch have a finite value.
    """
    rows = []
    for epoch in range(max(len(run.rows) for run in runs)):
        values = [getattr(run.rows[epoch], field) for run in runs if epoch < len(run.rows)]
        finite = [value for value in values if math.isfinite(value)] or [NAN]
        rows.append((statistics.median(finite) if 2 * len(finite) >= len(values) else NAN, min(finite), max(finite)))
    return tuple(zip(*rows))


def marked(values, offset):
    """Return the indices that carry a marker: about eight from an offset of 0 to 7 eighths, and points alone."""
    finite, step = [False, *map(math.isfinite, values), False], max(1, len(values) // 8)
    alone = {i for i in range(len(values)) if finite[i + 1] and not finite[i] and not finite[i + 2]}
    return sorted(alone | set(range(offset * step // 8, len(values), step)))


def draw_curves(axes, groups, field):
    """Draw each group's median and, for several seeds, its band, and crosses where NaN begins."""
    dashed = []
    for group, runs in groups.items():
        label, marker, colour = LOOKS[experiment(group)]
        dash, style = "-", dict(marker=marker, markersize=6.5, markeredgecolor="white", markeredgewidth=0.6)
        if group != f"alexnet{experiment(group)}":
            label, dash = group, DASHES[dashed.count(experiment(group)) % len(DASHES)]
            dashed.append(experiment(group))
            style |= dict(fillstyle="left", markerfacecoloralt="white", markeredgecolor=colour)
        notes = ", ".join([f"{len(runs)} seeds"] * (len(runs) > 1) + progress(runs))
        middle, low, high = spread(runs, field)
        epochs = range(1, len(middle) + 1)
        style |= dict(linestyle=dash, color=colour, label=f"{label} ({notes})" if notes else label)
        axes.plot(epochs, middle, markevery=marked(middle, experiment(group)), **style)
        if len(runs) > 1:  # the thin edge keeps a band without height in sight
            axes.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0.7, zorder=1.5)
        for run in runs:
            epoch = run.nan_weights if field == "accuracy" else run.finite_epochs() if run.breaks() else None
            if epoch and epoch <= len(run.rows):
                axes.plot(epoch, getattr(run.rows[epoch - 1], field), color=colour, **CROSS)


def draw_article(axes, points, field):
    """Draw the article's {experiment: {epoch: (loss, accuracy)}}, hollow."""
    for number, figures in points.items():
        values = [accuracy if field == "accuracy" else loss for loss, accuracy in figures.values()]
        axes.plot(list(figures), values, marker=LOOKS[number][1], color=LOOKS[number][2], **HOLLOW)


def draw_strip(axes, lanes, points):
    """Draw {experiment: list of Run}, a lane each: a line a run over its epochs of NaN or infinite loss."""
    for lane, (number, runs) in enumerate(lanes.items()):
        _, marker, colour = LOOKS[number]
        for i, run in enumerate(runs, start=1):
            height = lane - 0.5 + i / (len(runs) + 1)
            heights = [NAN if math.isfinite(row.loss) else height for row in run.rows]
            axes.plot(range(1, len(heights) + 1), heights, color=colour, marker="|", markersize=3, linewidth=1.2)
            axes.plot(run.finite_epochs() + 1, height, color=colour, **CROSS | dict(markersize=5))
        epochs = [epoch for epoch, (loss, _) in points[number].items() if math.isnan(loss)]
        axes.plot(epochs, [lane] * len(epochs), marker=marker, color=colour, **HOLLOW)
    infinite = any(math.isinf(row.loss) for runs in lanes.values() for run in runs for row in run.rows)
    axes.set(ylim=(len(lanes) - 0.4, -0.6), yticks=range(len(lanes)), yticklabels=lanes, facecolor="#F3F3F3")
    axes.set_ylabel("NaN, inf in" if infinite else "NaN in", rotation=0, ha="right", va="center")
    axes.tick_params(length=0)
    axes.grid(False)


def scale_loss(axes, shown, sizes):
    """Give the loss a log axis of a decade or more; mark chance for a common n of sizes, or 1,000."""
    n = max(sizes) if len(sizes) == 1 else 1000
    shown = [loss for loss in shown if 0 < loss < math.inf]
    if n in sizes:
        shown.append(n * math.log(10))
        axes.axhline(shown[-1], color=GREY, linewidth=0.8, zorder=1)
        style = dict(xytext=(0, 3), textcoords="offset points", ha="right", color=GREY, fontsize=8.5)
        text = f"chance: {n:,} ln 10 = {shown[-1]:,.1f}"
        axes.annotate(text, (1, shown[-1]), xycoords=("axes fraction", "data"), **style)
    high = max(shown, default=1) * 1.4
    low = min([high / 14, *shown]) * 0.8
    of = f"{n:,} images" if len(sizes) == 1 else "each run's test images"
    axes.set(yscale="log", ylim=(low, high), ylabel=f"test loss (sum over {of})")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 5000 else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def nan_lanes(groups, points):
    """Return {experiment: its runs with NaN or infinite losses}, also for an experiment whose points have NaN."""
    lanes = {number: [] for number in points if any(math.isnan(loss) for loss, _ in points[number].values())}
    for group, runs in groups.items():
        for run in runs:
            if run.breaks():
                lanes.setdefault(experiment(group), []).append(run)
    return dict(sorted(lanes.items()))


def legend(axes, field, article):
    """Return the legend's entries: the curves, and in grey whatever else there is."""
    entries, grey = axes.get_legend_handles_labels()[0], dict(color=GREY, xdata=[], ydata=[])
    if any(line.get_marker() == "x" for line in axes.get_lines()):
        text = "last loss before NaN" if field == "loss" else "weights turned NaN"
        entries.append(Line2D(label=text, **grey, **CROSS))
    if article:
        entries.append(Line2D(label="the article's figures", marker="o", **grey, **HOLLOW))
    if axes.collections:
        entries.append(Line2D(label="median of the seeds, band: their range", **grey))
    return entries


def draw(groups, field, article=False):
    """Return the figure of a field, loss or accuracy, against the epoch."""
    points = {number: ARTICLE[number] if article else {} for number in sorted(map(experiment, groups))}
    lanes = nan_lanes(groups, points) if field == "loss" else {}
    heights = [0.22 * len(lanes), 4] if lanes else [4]
    figure = plt.figure(figsize=(8, 0.3 + sum(heights) + 0.12 * len(groups)), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.06, w_pad=0.1, hspace=0)
    *strip, axes = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for above in strip:
        draw_strip(above, lanes, points)
    (strip or [axes])[0].set_title(f"AlexNet on MNIST: test {field}")
    draw_curves(axes, groups, field)
    draw_article(axes, points, field)
    rows = [row for runs in groups.values() for run in runs for row in run.rows]
    last = max([row.epoch for row in rows] + [epoch for number in points for epoch in points[number]])
    margin = max(0.5, last / 55)
    axes.set(xlim=(1 - margin, last + margin), ylim=(0, 1.02), xlabel="epoch", ylabel="test accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(steps=(1, 2, 5, 10), integer=True, min_n_ticks=1))
    if field == "loss":
        losses = [row.loss for row in rows] + [loss for number in points for loss, _ in points[number].values()]
        scale_loss(axes, losses, {images(group) for group in groups} | ({1000} if article else set()))
    entries = legend(axes, field, article)
    figure.legend(handles=entries, loc="outside lower center", ncols=min(2, len(entries)), handlelength=3.5)
    return figure


def draw_iterations(traces):
    """Return the figure of logit gap and training accuracy against the iteration, of {name: list of Iteration}."""
    figure, (above, below) = plt.subplots(2, sharex=True, figsize=(8, 5.6), layout="constrained")
    for name, rows in traces.items():
        _, marker, colour = LOOKS[experiment(name)]
        style = dict(color=colour, linestyle=DASHES[1] if "-fused" in name else "-", linewidth=1.2)
        label = f"experiment {experiment(name)}{', fused loss' * ('-fused' in name)}"
        if label not in above.get_legend_handles_labels()[1]:
            style["label"] = label
        for axes, field in (above, "logit_gap"), (below, "train_accuracy"):
            values = [getattr(row, field) if math.isfinite(row.train_loss) else NAN for row in rows]
            every = dict(marker=marker, markersize=5, markevery=marked(values, experiment(name)))
            axes.plot([row.iteration for row in rows], values, **style, **every)
            finite = [row for row in rows if math.isfinite(row.train_loss)]
            if 0 < len(finite) < len(rows):
                axes.plot(finite[-1].iteration, getattr(finite[-1], field), color=colour, **CROSS)
    above.axhline(UNDERFLOW, color=GREY, linewidth=0.8, zorder=1)
    style = dict(xytext=(0, 18), textcoords="offset points", ha="right", color=GREY, fontsize=8.5)
    text = "above the line a softmax entry is 0, and the naive loss NaN"
    above.annotate(text, (0.99, UNDERFLOW), xycoords=("axes fraction", "data"), **style)
    above.set(yscale="log", ylabel="widest logit gap of the batch")
    above.set_title("AlexNet on MNIST: logits and training accuracy, batch by batch")
    below.set(ylim=(0, 1.02), xlabel="iteration", ylabel="training accuracy")
    entries = above.get_legend_handles_labels()[0]
    if any(line.get_marker() == "x" for line in above.get_lines()):
        entries.append(Line2D(label="last before NaN", color=GREY, xdata=[], ydata=[], **CROSS))
    figure.legend(handles=entries, loc="outside lower center", ncols=min(3, len(entries)), handlelength=3.5)
    return figure


def short(value):
    """Return a number in about five characters: 0.034, 26.0, 2303, 1e+12, nan, inf."""
    if value and not 0.01 <= abs(value) < 1e5:
        return f"{value:.0e}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.{2 if abs(value) < 1 else 3}g}"


def cell(values, show=short):
    """Return a table cell's two lines, the median and the range; 12 3/5: only 3 of 5 seeds have a (finite) value."""
    if len(values) == 1:
        return "-" if values[0] is None else show(values[0]), ""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    share = "" if len(finite) == len(values) else f" {len(finite)}/{len(values)}"
    if not finite:
        return share.strip(), ""
    extent = f"{show(min(finite))}-{show(max(finite))}" if len(finite) > 1 else ""
    return show(statistics.median(finite)) + share, extent


def columns(runs):
    """Return the table's cells for a group of runs, each two lines."""
    whole, unknown = "{:g}".format, any(run.nan_weights == 0 for run in runs)
    seconds = [[row.seconds for row in run.rows if row.seconds is not None] for run in runs]
    return [
        cell([next((row.epoch for row in run.rows if row.accuracy >= 0.9), None) for run in runs], whole),
        cell([next((row.epoch for row in run.rows if math.isnan(row.loss)), None) for run in runs], whole),
        ("?", "") if unknown else cell([run.nan_weights for run in runs], whole),
        cell([run.rows[-1].loss for run in runs]),
        cell([100 * run.rows[-1].accuracy for run in runs]),
        cell([statistics.median(values) if values else None for values in seconds]),
    ]


def summary(groups):
    """Return the table as text of 79 columns: a line a group, and one below for the ranges over several seeds."""

    def line(*cells):
        return "{:14} {:>5} {:>8} {:>8} {:>8} {:>11} {:>9} {:>9}".format(*cells).rstrip()

    lines = [line("run", "seeds", "acc>=90%", "NaN loss", "NaN wts", "loss", "acc %", "s/epoch"), "-" * 79]
    for group, runs in groups.items():
        name = " ".join([group, *(f"({note})" for note in progress(runs))])
        if len(name) > 14:
            lines += textwrap.wrap(name, 79, break_on_hyphens=False)
            name = ""
        median, extent = zip(*columns(runs))
        lines.append(line(name, len(runs), *median))
        if len(runs) > 1:
            lines.append(line("  range", "", *extent))
    lines += ["-" * 79, "acc>=90%, NaN loss: first such epoch in the test. NaN wts: epoch in which they"]
    lines += ["turned NaN (-: never, ?: there is no record). loss, acc %: of the last epoch."]
    if any(len(runs) > 1 for runs in groups.values()):
        lines += ["Several seeds: the median; 12 3/5: only 3 of 5 seeds have a (finite) value."]
    return "\n".join(lines)


def causes(groups):
    """Return the second table: why a loss first was not finite, where, and how far apart the logits were."""
    line = "{:25} {:14} {:>4} {:>12} {:>20}".format
    lines = [line("run", "the loss was", "runs", "epoch:iter.", "widest logit gap"), "-" * 79]
    for group, runs in groups.items():
        kinds = {}
        for run in runs:
            kinds.setdefault(run.cause[0] if run.cause else "finite", []).append(run)
        for kind, alike in sorted(kinds.items()):
            places = sorted((run.cause[1], run.cause[2] or math.inf) for run in alike if run.cause)
            ends = dict.fromkeys(places[:1] + places[-1:])
            place = " to ".join(f"{epoch}:{'test' if at == math.inf else at}" for epoch, at in ends)
            gaps = [run.cause[3] if run.cause else max(row.logit_gap or 0 for row in run.rows) for run in alike]
            gap = " to ".join(f"{gap:.3g}" for gap in dict.fromkeys([min(gaps), max(gaps)]))
            if not all(map(math.isfinite, gaps)):
                gap = "not finite"
            if len(group) > 25:
                lines.append(group)
            lines.append(line(group if len(group) <= 25 else "", kind, len(alike), place, gap))
    lines += ["-" * 79, "The first loss that was not finite. log(0): finite logits, but a softmax entry"]
    lines += ["is 0, which takes a gap of about 87. explosion: not finite, or 10,000 apart."]
    return "\n".join(lines)


def milestones(curves):
    """Return a line's cells for {epoch: (loss, accuracy)} of some runs: end of the plateau, NaN, figures at EPOCHS.

    Each cell is three lines: median, range, and for figures the accuracy's range.
    """
    plateau = 0.95 * 1000 * math.log(10)
    ends = [next((epoch for epoch in sorted(curve) if curve[epoch][0] < plateau), None) for curve in curves]
    nans = [next((epoch for epoch in sorted(curve) if math.isnan(curve[epoch][0])), None) for curve in curves]
    cells = [(*cell(values, "{:g}".format), "") for values in (ends, nans)]
    for epoch in EPOCHS:
        figures = [curve[epoch] for curve in curves if epoch in curve]
        if not figures:
            cells.append(("", "", ""))
            continue
        losses, accuracies = zip(*figures)
        loss, accuracy = cell(losses), cell(accuracies, lambda value: f"{value:.3f}".removeprefix("0"))
        cells.append((f"{loss[0]} {accuracy[0]}", loss[1], accuracy[1]))
    return cells


def comparison(groups):
    """Return the third table: the article's figures beside ours, of runs on its data alone."""
    line = "{:15} {:>5} {:>7} {:>5} {:>10} {:>10} {:>10} {:>10}".format
    lines = [line("run", "seeds", "plateau", "NaN", *(f"epoch {epoch}" for epoch in EPOCHS)), "-" * 79]
    numbers = set()
    for group, runs in groups.items():
        if re.search("-(train|test|batch|data)", group):
            continue
        number = experiment(group)
        rows = [(group, [{row.epoch: (row.loss, row.accuracy) for row in run.rows} for run in runs])]
        if number not in numbers and ARTICLE[number]:
            rows.insert(0, (f"{number}, the article", [ARTICLE[number]]))
        numbers.add(number)
        for name, curves in rows:
            if len(name) > 15:
                lines.append(name)
            medians, *ranges = zip(*milestones(curves))
            lines.append(line(name if len(name) <= 15 else "", len(curves), *medians).rstrip())
            lines += [line("", "", *extent).rstrip() for extent in ranges if any(extent)]
    lines += ["-" * 79, "plateau: the first epoch with a loss below 95 % of chance. NaN: the first NaN"]
    lines += ["loss. At an epoch: test loss and accuracy; of several seeds the median, ranges"]
    lines += ["below; 0/5: none of 5 is finite. Empty: the article does not tell, or we did"]
    lines += ["not train so far."]
    return "\n".join(lines)


def save(figure, path):
    """Write a figure without date or version, so that equal input gives equal bytes."""
    nameless = {"Software": None} if path.suffix == ".png" else {"Creator": None, "Date": None}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata=nameless)
    except OSError as error:
        raise UserError(f"{error.filename or path}: {error.strerror or error}; name another --output-dir") from None


def main(arguments=None):
    """Read the runs, write the pictures, print the table; UserError for bad input."""
    parser = Parser(prog="plot_results.py", description=__doc__.partition("\n")[0])
    parser.add_argument("paths", nargs="*", type=Path, metavar="CSV or FOLDER", help="what to plot (results/)")
    parser.add_argument("--article", action="store_true", help="add the article's figures as hollow markers")
    parser.add_argument("--svg", action="store_true", help="write SVG too")
    parser.add_argument("--show", action="store_true", help="open a window too")
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="for the pictures (first FOLDER, or results/)")
    args = parser.parse_args(arguments)
    paths = args.paths or [RESULTS]
    try:
        groups = load_groups(paths)
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; name another CSV or folder") from None
    folder = args.output_dir or next((path for path in paths if path.is_dir()), RESULTS)
    if not args.show:
        matplotlib.use("Agg")
    elif matplotlib.get_backend().lower() == "agg":
        raise UserError("--show: there is no display to open a window on; leave it out")
    traces = {
        file.stem: read_csv(file, Iteration)
        for path in paths
        if path.is_dir()
        for file in sorted(path.glob("trace/alexnet[1-7]*.csv"))
    }
    print(summary(groups), causes(groups), comparison(groups), sep="\n\n")
    with plt.style.context(["default", STYLE]):
        figures = {field: draw(groups, field, args.article) for field in ("loss", "accuracy")}
        if traces:
            figures["iterations"] = draw_iterations(traces)
        for name, figure in figures.items():
            for kind in ("png", "svg") if args.svg else ("png",):
                save(figure, folder / f"{name}.{kind}")
                print(f"wrote {folder / name}.{kind}")
        if args.show:
            plt.show()
        plt.close("all")


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")
    with user_errors():
        main()
