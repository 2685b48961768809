"""The pictures of groups of runs (common.curves): test loss, test accuracy, and how far apart the logits lie.

A group's line is the median of its runs, its band their range. What is not finite leaves both, and the line stops where
less than half of the runs have a finite value. A group that is not the article's protocol is dashed. Where lines lie on
each other, their colours take turns.
"""

import math

from common.curves import NAN, experiment, images, parts, progress, spread, title, variant
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
import numpy as np

# Okabe and Ito's colours without the yellow, and a brown; the markers repeat only later.
COLOURS = ("#E69F00", "#D55E00", "#0072B2", "#009E73", "#000000", "#CC79A7", "#56B4E9", "#8C510A")
MARKERS = ("o", "s", "^", "D", "v", "P", "p", "X", "*")
DASHES = ((0, (4, 1.5)), (0, (1.5, 1.2)), (0, (7, 1.5, 1.5, 1.5)), (0, (10, 2)))
GREY = "#666666"
UNDERFLOW = 87.3  # -ln of the smallest normal float32: from this logit gap on a softmax entry is flushed to 0
EXPLOSION = 1e4  # common.training's, which cannot be imported without TensorFlow
CROSS = dict(linestyle="", marker="x", markersize=8, markeredgewidth=2, clip_on=False, in_layout=False, zorder=5)
HOLLOW = dict(linestyle="", markersize=8, markerfacecolor="none", clip_on=False, in_layout=False, zorder=4)
PLAIN = dict(facecolor="white", edgecolor="none", alpha=0.8, pad=0.3)
NOTE = dict(textcoords="offset points", ha="right", color=GREY, fontsize=9, bbox=PLAIN)
STYLE = {f"axes.spines.{side}": False for side in ("right", "top")} | {"axes.edgecolor": "#BBBBBB", "font.size": 10}
STYLE |= {
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E9E9E9",
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
}
STYLE |= {"legend.frameon": False, "savefig.dpi": 150, "svg.hashsalt": "alexnet", "lines.linewidth": 1.6}
ACCURACIES = (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)


def short_name(group, groups):
    """2 for a group that follows the article's protocol, 2 fused for one that does not."""
    return f"{experiment(group)} {variant(group, groups)}".rstrip()


def name(group, groups):
    """2 stddev 0.01 for a group that follows the article's protocol, 2 fused for one that does not."""
    return short_name(group, groups) if variant(group, groups) else f"{experiment(group)} {title(experiment(group))}"


def look(number):
    """Return the colour and the marker of an experiment, as properties of a line."""
    return dict(color=COLOURS[(number - 1) % len(COLOURS)], marker=MARKERS[(number - 1) % len(MARKERS)])


def looks(groups):
    """Return {group: the properties of its line}."""
    styles, dashed = {}, []
    for group, runs in groups.items():
        number = experiment(group)
        notes = ", ".join([f"{len(runs)} seeds"] * (len(runs) > 1) + progress(runs))
        style = look(number) | dict(markersize=7, label=f"{name(group, groups)} ({notes})".removesuffix(" ()"))
        if variant(group, groups):
            style |= dict(linestyle=DASHES[dashed.count(number) % len(DASHES)], markeredgecolor=style["color"])
            style |= dict(fillstyle="left", markerfacecoloralt="white", markeredgewidth=0.6)
            dashed.append(number)
        else:
            style |= dict(linestyle="-", markeredgecolor="white", markeredgewidth=0.4)
        styles[group] = style
    return styles


def marked(values, offset):
    """Return the indices that carry a marker: about eight from an offset of 0 to 7 eighths, and points alone."""
    finite, step = [False, *map(math.isfinite, values), False], max(1, len(values) // 8)
    alone = {i for i in range(len(values)) if finite[i + 1] and not finite[i] and not finite[i + 2]}
    return sorted(alone | set(range(offset % 8 * step // 8, len(values), step)))


def take_turns(axes, lines):
    """Return {group: turn}, counted from 0: two lines of which a tenth lies on each other have different ones."""
    turns, heights = {}, {}
    for group, (x, middle, *_) in lines.items():
        taken, height = set(), (axes.transData - axes.transAxes).transform(np.column_stack([x, middle]))[:, 1]
        for other, turn in turns.items():
            shared = min(len(height), len(heights[other]))
            if np.sum(np.abs(height[:shared] - heights[other][:shared]) < 0.02) > shared / 10:
                taken.add(turn)
        turns[group], heights[group] = min(set(range(len(lines))) - taken), height
    return turns


def draw_lines(axes, lines, groups, line_height=0.05):
    """Draw {group: (x, middle, low, high)} on axes whose limits are set, and write each one's name at its end.

    line_height is that of a name, as a part of the axes' height.
    """
    styles, turns, columns = looks(groups), take_turns(axes, lines), {}
    for group, (x, middle, low, high) in lines.items():
        style = styles[group]
        axes.plot(x, middle, markevery=marked(middle, experiment(group)), **style)
        if list(low) != list(high):
            axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0, zorder=1.5)
        last = max(turns.values())
        if style["linestyle"] == "-" and last:  # in its own colour, so in sight only where another line lies on it
            dash = 5 * turns[group], (5, 5 * last)
            axes.plot(x, middle, color=style["color"], linestyle=dash, dash_capstyle="butt", zorder=2.1)
        finite = [i for i, value in enumerate(middle) if math.isfinite(value)]
        if finite:
            end = x[finite[-1]], middle[finite[-1]]
            across, height = np.clip((axes.transData - axes.transAxes).transform(end), 0, 1)
            columns.setdefault(1 if across > 0.85 else round(across, 3), []).append([height, group])
    for across, column in columns.items():
        column.sort()
        for _ in range(50):  # apart until none covers another
            for lower, upper in zip(column, column[1:]):
                lacking = max(0, line_height - upper[0] + lower[0])
                lower[0], upper[0] = lower[0] - lacking / 2, upper[0] + lacking / 2
            column[-1][0] = min(1, column[-1][0])
        for height, group in column:
            text = f"{experiment(group)}{' fused' * ('fused' in parts(group))}"
            style = dict(xycoords="axes fraction", textcoords="offset points", va="center", weight="bold")
            style |= dict(color=styles[group]["color"], path_effects=[withStroke(linewidth=2.5, foreground="white")])
            axes.annotate(text, (across, height), (3 if across == 1 else 9, 0), **style)


def per_epoch(groups, field):
    """Return {group: (epochs, median, minimum, maximum)} of a field."""
    lines = {group: spread(runs, field) for group, runs in groups.items()}
    return {group: (range(1, len(columns[0]) + 1), *columns) for group, columns in lines.items()}


def epoch_axis(axes, last):
    """Give the axis of epochs room at both ends, and a tick at the first and each round one."""
    margin = max(0.5, last / 55)
    step = next(step for power in range(9) for digit in (1, 2, 5) if last / (step := digit * 10**power) <= 12)
    axes.set(xlim=(1 - margin, last + margin), xlabel="epoch")
    axes.xaxis.set_major_locator(FixedLocator(sorted({1, *range(step, last + 1, step)})))


def breaks(runs):
    """Whether any run's loss is ever NaN or infinite."""
    return any(not math.isfinite(row.loss) for run in runs for row in run.rows)


def draw_strip(axes, groups, points):
    """Draw, a lane each, the groups with NaN or infinite losses, ours or the article's: how many runs, as a height.

    Returns the number of lanes.
    """
    lanes = {short_name(group, groups): (experiment(group), runs) for group, runs in groups.items() if breaks(runs)}
    for number, figures in points.items():
        if any(math.isnan(loss) for loss, _ in figures.values()):
            lanes.setdefault(str(number), (number, []))
    lanes = dict(sorted(lanes.items(), key=lambda lane: (lane[1][0], lane[0])))
    for lane, (name, (number, runs)) in enumerate(lanes.items()):
        last, floor = max([len(run.rows) for run in runs], default=0), lane + 0.35
        tops = []
        for epoch in range(1, last + 1):
            reached = [run.rows[epoch - 1].loss for run in runs if len(run.rows) >= epoch]
            tops.append(floor - 0.7 * sum(not math.isfinite(loss) for loss in reached) / len(reached))
        style = dict(color=look(number)["color"], alpha=0.5, linewidth=0)
        axes.stairs(tops, np.arange(0.5, last + 1), baseline=floor, fill=True, **style)
        if name == str(number):
            told = [epoch for epoch, (loss, _) in points.get(number, {}).items() if math.isnan(loss)]
            axes.plot(told, [lane] * len(told), **look(number), **HOLLOW | {"markersize": 6})
    infinite = any(math.isinf(row.loss) for runs in groups.values() for run in runs for row in run.rows)
    axes.set(ylim=(len(lanes) - 0.5, -0.5), yticks=range(len(lanes)), yticklabels=lanes, facecolor="#F3F3F3")
    axes.set_ylabel("NaN, inf in" if infinite else "NaN in", rotation=0, ha="right", va="center")
    axes.tick_params(length=0)
    axes.grid(False)
    return len(lanes)


def scale_loss(axes, shown, sizes):
    """Give the loss a log axis of a decade or more; mark chance for a common n of sizes, or 1,000."""
    n = max(sizes) if len(sizes) == 1 else 1000
    shown = [loss for loss in shown if 0 < loss < math.inf]
    if n in sizes:
        shown.append(n * math.log(10))
        axes.axhline(shown[-1], color=GREY, linewidth=0.8, zorder=1)
        text = f"chance: {n:,} ln 10 = {shown[-1]:,.1f}"
        axes.annotate(text, (1, shown[-1]), (0, 3), xycoords=("axes fraction", "data"), **NOTE)
    high = max(shown, default=1) * 1.4
    low = min([high / 14, *shown]) * 0.8
    of = f"{n:,} images" if len(sizes) == 1 else "each run's test images"
    axes.set(yscale="log", ylim=(low, high), ylabel=f"test loss (sum over {of})")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 5000 else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def scale_accuracy(axes, shown, sizes):
    """Give the accuracy the log axis of the error and half an image more, so that .991, .995 and 1 are apart."""
    half = 0.5 / max(sizes)
    scale = (lambda accuracy: -np.log10(1 + half - accuracy), lambda height: 1 + half - 10**-height)
    axes.set_yscale("function", functions=scale)
    top = 1 + half - 0.8 * (1 + half - max([0.9, *shown]))
    axes.set(ylim=(-0.1, top), ylabel="test accuracy (log axis of the error)")
    axes.yaxis.set_major_locator(FixedLocator(ACCURACIES))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def legend(figure, axes, notes, height):
    """Put the legend of axes below plots of a height in inches, and in it, in grey, notes of (text, properties)."""
    entries = axes.get_legend_handles_labels()[0]
    entries += [Line2D([], [], label=text, color=GREY, **style) for text, style in notes]
    figure.set_size_inches(8, height + 0.21 * -(-len(entries) // 2))
    figure.legend(handles=entries, loc="outside lower center", ncols=min(2, len(entries)), handlelength=3)


def about(groups, median_of="seeds"):
    """What the legend says of medians, where there are any, and of the groups' precision."""
    notes = []
    if median_of != "seeds" or any(len(runs) > 1 for runs in groups.values()):
        notes.append((f"median of the {median_of}, band: their range", {}))
    mixed = [group for group in groups if "mixed" in parts(group) and "mixed" not in variant(group, groups)]
    if mixed:
        text = "all" if len(mixed) == len(groups) else ", ".join(short_name(group, groups) for group in mixed)
        notes.append((f"in mixed precision: {text}", dict(linestyle="")))
    return notes


def ends(lines):
    """Return [(group, x, y)], the last finite point of each of {group: (x, middle, ...)} cut short."""
    found = []
    for group, (x, middle, *_) in lines.items():
        finite = [i for i, value in enumerate(middle) if math.isfinite(value)]
        if finite and finite[-1] + 1 < len(middle):
            found.append((group, x[finite[-1]], middle[finite[-1]]))
    return found


def weights_turn(lines, groups):
    """Return [(group, epoch, y)], the epoch from which on half of a group's runs have NaN weights."""
    turns = {g: sorted(run.nan_weights or math.inf for run in runs)[(len(runs) - 1) // 2] for g, runs in groups.items()}
    return [(group, at, lines[group][1][at - 1]) for group, at in turns.items() if at <= len(lines[group][1])]


def draw_crosses(axes, places, groups, text):
    """Draw a cross at each (group, x, y), and return the legend's note on them."""
    for group, x, y in places:
        axes.plot(x, y, color=looks(groups)[group]["color"], **CROSS)
    return [(text, CROSS)] if places else []


def draw(groups, field, points):
    """Return the figure of a field, loss or accuracy, against the epoch; points as of curves.article."""
    told = [(epoch, loss, accuracy) for figures in points.values() for epoch, (loss, accuracy) in figures.items()]
    rows = [row for runs in groups.values() for run in runs for row in run.rows]
    strip = field == "loss" and not all(map(math.isfinite, [row.loss for row in rows] + [loss for _, loss, _ in told]))
    figure, axes = plt.subplots(1 + strip, sharex=True, squeeze=False, layout="constrained")
    axes, lanes = axes[-1, 0], 0
    if strip:
        lanes = draw_strip(figure.axes[0], groups, points)
        axes.get_gridspec().set_height_ratios([0.22 * lanes, 4])
    figure.get_layout_engine().set(h_pad=0.06, w_pad=0.1, hspace=0)
    figure.axes[0].set_title(f"AlexNet on MNIST: test {field}")
    epoch_axis(axes, max([row.epoch for row in rows] + [epoch for epoch, *_ in told]))
    scale = scale_loss if field == "loss" else scale_accuracy
    shown = [getattr(row, field) for row in rows] + [values[1 if field == "loss" else 2] for values in told]
    scale(axes, shown, {images(group) for group in groups} | ({1000} if told else set()))
    lines = per_epoch(groups, field)
    draw_lines(axes, lines, groups)
    if field == "loss":
        crosses = draw_crosses(axes, ends(lines), groups, "the last loss before NaN")
    else:
        crosses = draw_crosses(axes, weights_turn(lines, groups), groups, "the weights turn NaN")
    for number, figures in points.items():
        values = [accuracy if field == "accuracy" else loss for loss, accuracy in figures.values()]
        alone = number not in map(experiment, groups)
        label = f"{number} {title(number)} (the article)" if alone else None
        axes.plot(list(figures), values, label=label, **look(number), **HOLLOW)
    notes = [("hollow: the article's figures", dict(marker="o", **HOLLOW))] if told else []
    if strip and any(len(runs) > 1 for runs in groups.values()):
        notes.append(("share of the seeds that are NaN", dict(linewidth=6, solid_capstyle="butt")))
    legend(figure, axes, notes + crosses + about(groups), 4.2 + 0.22 * lanes)
    return figure


def scale_gap(axes, shown):
    """Give the logit gap's axis, its scale set, room for all but explosions, and the line of the naive loss's NaN."""
    shown = [gap for gap in shown if 0 < gap < EXPLOSION]
    axes.set_ylim(min([1, *shown]) * 0.7, max([200, *shown]) * 12)
    axes.axhline(UNDERFLOW, color=GREY, linewidth=0.8, zorder=1)
    text = "beyond 87 a softmax entry is 0: the naive loss is NaN"
    axes.annotate(text, (0.6, UNDERFLOW), (0, 4), xycoords=("axes fraction", "data"), **NOTE)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def draw_gaps(axes, lines, gaps, groups, line_height):
    """Draw {group: (x, middle, low, high)} of logit gaps, explosions in words at the upper edge.

    gaps is {group: list of (x, gap) of all its runs}.
    """
    cut = {group: (x, *np.where(np.less(columns, EXPLOSION), columns, NAN)) for group, (x, *columns) in lines.items()}
    draw_lines(axes, cut, groups, line_height)
    words = {}
    for group, pairs in gaps.items():
        x, gap = next(((x, gap) for x, gap in pairs if not gap < EXPLOSION), (None, None))
        if x is not None:
            digit, power = f"{gap:.0e}".split("e+") if math.isfinite(gap) else (None, None)
            size = f"${digit} \\cdot 10^{{{power}}}$" if power else "not finite"
            style = dict(textcoords="offset points", color=looks(groups)[group]["color"])
            words[x] = words.get(x, 0) + 12
            axes.annotate(f"{short_name(group, groups)}: {size}", (x, axes.get_ylim()[1]), (8, -words[x]), **style)
            axes.plot(x, axes.get_ylim()[1], **look(experiment(group)) | dict(marker="^", clip_on=False))
    return cut


def draw_gap(groups):
    """Return the figure of the widest logit gap of each epoch; None where no CSV has it."""
    gaps = {
        group: [(row.epoch, row.logit_gap) for run in runs for row in run.rows if row.logit_gap is not None]
        for group, runs in groups.items()
    }
    groups = {group: runs for group, runs in groups.items() if gaps[group]}
    if not groups:
        return None
    figure, axes = plt.subplots(layout="constrained")
    axes.set_title("AlexNet on MNIST: how far apart the logits lie")
    epoch_axis(axes, max(len(run.rows) for runs in groups.values() for run in runs))
    axes.set_yscale("symlog", linthresh=100, linscale=4)  # most room for the way to 87
    axes.yaxis.set_major_locator(FixedLocator((0, 20, 40, 60, 80, 100, 1000, 10_000)))
    scale_gap(axes, [gap for pairs in gaps.values() for _, gap in pairs])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("widest logit gap of the epoch (log from 100)")
    cut = draw_gaps(axes, per_epoch(groups, "logit_gap"), gaps, groups, 0.05)
    turns = [turn for turn in weights_turn(cut, groups) if math.isfinite(turn[2])]
    crosses = draw_crosses(axes, turns, groups, "the loss turns NaN")
    legend(figure, axes, crosses + about(groups), 4.2)
    return figure


def blocks(traces, field):
    """Return (x, median, minimum, maximum) of a field over all traces, in blocks of iterations that grow."""
    last = max(len(trace) for trace in traces)
    edges = np.unique(np.geomspace(1, last + 1, 150).astype(int))
    columns = []
    for first, end in zip(edges, edges[1:]):
        values = [getattr(row, field) for trace in traces for row in trace[first - 1 : end - 1]]
        finite = [value for value in values if math.isfinite(value)] or [NAN]
        columns.append((math.sqrt(first * (end - 1)), float(np.median(finite)), min(finite), max(finite)))
    return tuple(zip(*columns))


def draw_iterations(groups):
    """Return the figure of logit gap and training accuracy against the iteration; None where no trace was kept."""
    traces = {group: [trace for run in runs if (trace := run.trace())] for group, runs in groups.items()}
    traces = {group: found for group, found in traces.items() if found}
    if not traces:
        return None
    groups = {group: groups[group] for group in traces}
    figure, (above, below) = plt.subplots(2, sharex=True, layout="constrained")
    above.set_title("AlexNet on MNIST: logits and training accuracy, batch by batch")
    last = max(len(trace) for found in traces.values() for trace in found)
    above.set(xscale="log", yscale="log", xlim=(0.9, last * 1.1), ylabel="widest logit gap of the batch")
    below.set(ylim=(0, 1.02), xlabel="iteration", ylabel="training accuracy")
    below.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    gaps = {g: [(row.iteration, row.logit_gap) for trace in found for row in trace] for g, found in traces.items()}
    scale_gap(above, [gap for pairs in gaps.values() for _, gap in pairs])
    draw_gaps(above, {g: blocks(found, "logit_gap") for g, found in traces.items()}, gaps, groups, 0.08)
    stopped = []
    for group, found in traces.items():
        at = sorted(trace[-1][:1] + trace[-1][3:] for trace in found if not math.isfinite(trace[-1].train_loss))
        if 2 * len(at) > len(found) and at[len(at) // 2][1] < EXPLOSION:
            stopped.append((group, *at[len(at) // 2]))
    crosses = draw_crosses(above, stopped, groups, "the loss turns NaN")
    draw_lines(below, {group: blocks(found, "train_accuracy") for group, found in traces.items()}, groups, 0.08)
    legend(figure, above, crosses + about(groups, "batches"), 5)
    return figure
