"""The pictures of groups of runs: test loss, test accuracy, and how far apart the logits lie.

A group's line is the median of the runs that came furthest, its band the range of all, both over finite values; the
line stops where less than half of its runs have one. A group that deviates from the article's protocol, or is of
another folder than the first, is dashed. Where lines coincide, their colours alternate.
"""

from dataclasses import replace
import hashlib
import math

from common.plots.curves import NAN, Curve, finite, furthest, median_and_range, title
from common.results import EXPLOSION
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
CROSS = dict(linestyle="", marker="x", markersize=8, markeredgewidth=2, clip_on=False, in_layout=False, zorder=5)
HOLLOW = dict(linestyle="", markersize=8, markerfacecolor="none", clip_on=False, in_layout=False, zorder=4)
NAN_BAR = dict(linewidth=6, solid_capstyle="butt", alpha=0.5)
OFF_SCALE = ("off the scale", dict(linestyle="", marker=r"$\uparrow$", markersize=9))
NOTE = dict(
    textcoords="offset points",
    ha="right",
    color=GREY,
    fontsize=9,
    bbox=dict(facecolor="white", edgecolor="none", alpha=0.8, pad=0.3),
)
CROWD = dict(textcoords="offset points", ha="center", color=GREY, fontsize=8)
STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.edgecolor": "#BBBBBB",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "font.size": 10,
    "grid.color": "#E9E9E9",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.dpi": 150,
}
ACCURACIES = (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)


def base_style(number):
    """The colour and the marker of an experiment, as properties of a line."""
    return dict(color=COLOURS[(number - 1) % len(COLOURS)], marker=MARKERS[(number - 1) % len(MARKERS)])


def line_style(number, dashed, dashes):
    """The properties of a group's line; dashes counts the dashed lines of its experiment before it."""
    style = base_style(number) | dict(markersize=7)
    if not dashed:
        return style | dict(linestyle="-", markeredgecolor="white", markeredgewidth=0.4)
    style |= dict(fillstyle="left", markerfacecoloralt="white", markeredgewidth=0.6, markeredgecolor=style["color"])
    return style | dict(linestyle=DASHES[dashes % len(DASHES)])


def styled(groups):
    """Return the groups with the variant and the style that distinguish them in one picture.

    The precision is part of a variant only if the same runs are also shown in float32.
    """
    keys, shown = {group.key for group in groups}, []
    for group in groups:
        in_float32_too = group.mixed and (group.number, group.variant_tags, group.folder) in keys
        tags = group.tags if in_float32_too else group.variant_tags
        group = replace(group, variant=" ".join(tags))
        dashes = sum(other.number == group.number and other.dashed for other in shown)
        shown.append(replace(group, style=line_style(group.number, group.dashed, dashes)))
    return shown


def marker_indices(values, offset):
    """Return the indices that get a marker: about eight, from an offset of 0 to 7 eighths, and isolated points."""
    finite, step = [False, *map(math.isfinite, values), False], max(1, len(values) // 8)
    isolated = {i for i in range(len(values)) if finite[i + 1] and not finite[i] and not finite[i + 2]}
    return sorted(isolated | set(range(offset % 8 * step // 8, len(values), step)))


def axes_heights(axes, x, y):
    """The heights of points, as fractions of the axes' height."""
    return (axes.transData - axes.transAxes).transform(np.column_stack([x, y]))[:, 1]


def overlap_turns(axes, curves):
    """Return {group: turn} from 0; two lines that coincide over a tenth of their length have different turns."""
    turns, heights = {}, {}
    for group, curve in curves.items():
        taken, height = set(), axes_heights(axes, curve.x, curve.median)
        for other, turn in turns.items():
            shared = min(len(height), len(heights[other]))
            if np.sum(np.abs(height[:shared] - heights[other][:shared]) < 0.02) > shared / 10:
                taken.add(turn)
        turns[group], heights[group] = min(set(range(len(curves))) - taken), height
    return turns


def draw_lines(axes, curves, line_height=0.05, absent=("NaN", NAN_BAR), median_of="seeds"):
    """Draw {group: Curve} on axes whose limits are set, and write each group's name at the end of its line.

    line_height is that of a name, as a fraction of the axes' height; absent is the legend's (text, style) for a curve
    without a finite point. Returns the legend's notes on what was drawn, list of (text, properties).
    """
    turns = overlap_turns(axes, curves)
    last, bands = max(turns.values()), False
    for group, curve in curves.items():
        colour, (x, median, low, high) = group.style["color"], curve
        if last_finite(curve) is None:
            axes.plot([], [], color=colour, label=f"{group.label}: {absent[0]}", **absent[1])
            continue
        axes.plot(x, median, markevery=marker_indices(median, group.number), label=group.label, **group.style)
        if has_band(curve):
            bands = True
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0, zorder=1.5)
        if not group.dashed and last:  # in its own colour: visible only where another line covers it
            dash = 5 * turns[group], (5, 5 * last)
            axes.plot(x, median, color=colour, linestyle=dash, dash_capstyle="butt", zorder=2.1)
    name_lines(axes, curves, line_height)
    notes = [(f"median of the {median_of}, band: their range", {})] if bands else []
    if bands and any(len(furthest(group.runs)) < len(group.runs) for group in curves):
        notes.append(("seeds that ended earlier: only in the band", dict(linestyle="")))
    alternating = last and not all(group.dashed for group in curves)
    return notes + ([("alternating colours: lines that coincide", dict(linestyle=""))] if alternating else [])


def has_band(curve):
    """Whether the range of a curve is wider than its line somewhere between two neighbouring points."""
    wide = [high > low for low, high in zip(curve.low, curve.high)]  # False for NaN
    finite = [math.isfinite(low) for low in curve.low]
    return any((wide[i] or wide[i + 1]) and finite[i] and finite[i + 1] for i in range(len(wide) - 1))


def name_lines(axes, curves, line_height):
    """Write each group's name at the end of its line: in one row if lines end together, else one below the other.

    A thin line leads to a name that had to move.
    """
    columns = {}
    for group, curve in curves.items():
        end = last_finite(curve)
        if end is not None:
            point = curve.x[end], curve.median[end]
            across, height = np.clip((axes.transData - axes.transAxes).transform(point), 0, 1)
            columns.setdefault(1 if across > 0.85 else round(across, 3), []).append((height, across, group))
    for column in columns.values():
        rows = []
        for end in sorted(column, key=lambda end: (end[0], end[2].number, end[2].tags)):
            if rows and end[0] - rows[-1][0][0] < 0.01:
                rows[-1].append(end)
            else:
                rows.append([end])
        for row, height in zip(rows, spread_apart([row[0][0] for row in rows], line_height)):
            name_row(axes, row, height, line_height)


def name_row(axes, row, height, line_height):
    """Write the names of [(height, across, group)], lines that end together, at a height that may differ from theirs.

    Names of lines that reach the right edge stand outside, others where they cover no line.
    """
    end, across = row[0][0], max(across for _, across, _ in row)
    row = sorted(row, key=lambda end: end[2].key)
    names = [f"{group.number}{' fused' * ('fused' in group.tags)} {group.folder}".rstrip() for *_, group in row]
    moved = across > 0.85 and abs(height - end) > line_height / 4
    x = 1.03 if moved else 1.01
    if across <= 0.85:
        x, height = free_place(axes, (across, height), 0.015 * len(" ".join(names)), line_height)
    for text, (*_, group) in zip(names, row):
        colour = group.style["color"]
        leader = dict(arrowstyle="-", color=colour, linewidth=0.8, shrinkA=0, shrinkB=0) if moved else None
        style = dict(color=colour, weight="bold", path_effects=[withStroke(linewidth=2.5, foreground="white")])
        style |= dict(xycoords="axes fraction", textcoords="axes fraction", arrowprops=leader, va="center")
        axes.annotate(text, (across, end), (x, height), annotation_clip=False, **style)
        x, moved = x + 0.007 + 0.015 * len(text), False  # one leader a row


def free_place(axes, end, width, height):
    """Return (left, middle) for a text near the end of a line: where it covers no line, else right of the end."""
    x, y = end
    places = [(x + 0.018, y)]
    places += [(x - width, y + step * height) for step in (0.8, -0.8, 1.6, -1.6)]
    for left, middle in places:
        inside = height / 2 < middle < 1 - height / 2
        if inside and not any(crosses_box(axes, line, left, left + width, middle, height) for line in axes.get_lines()):
            return left, middle
    return places[0]


def crosses_box(axes, line, left, right, middle, height):
    """Whether a line passes through a box, all in fractions of the axes."""
    if not len(line.get_xdata()):
        return False
    x, y = axes.transAxes.inverted().transform(line.get_transform().transform(line.get_xydata())).T
    heights = np.interp(np.linspace(left, right, 20), x, y, left=NAN, right=NAN)
    low, high = np.minimum(heights[1:], heights[:-1]), np.maximum(heights[1:], heights[:-1])
    return bool(np.any((high > middle - height / 2) & (low < middle + height / 2)))


def spread_apart(heights, line_height):
    """Return sorted heights moved apart until no name covers another, none above 1."""
    heights = list(heights)
    for _ in range(50):
        for i in range(len(heights) - 1):
            lacking = max(0, line_height - heights[i + 1] + heights[i])
            heights[i], heights[i + 1] = heights[i] - lacking / 2, heights[i + 1] + lacking / 2
        heights[-1] = min(1, heights[-1])
    return heights


def last_finite(curve):
    """The index of the last finite median, or None."""
    return max((i for i, value in enumerate(curve.median) if math.isfinite(value)), default=None)


def epoch_axis(axes, last):
    """Give the axis of epochs room at both ends, and a tick at the first and each round one."""
    margin = max(0.5, last / 55)
    step = next(step for power in range(9) for digit in (1, 2, 5) if last / (step := digit * 10**power) <= 12)
    axes.set(xlim=(1 - margin, last + margin), xlabel="epoch")
    axes.xaxis.set_major_locator(FixedLocator(sorted({1, *range(step, last + 1, step)})))


def all_rows(groups):
    """The epochs of all runs of the groups, list of Row."""
    return [row for group in groups for run in group.runs for row in run.rows]


def has_nan_loss(group):
    """Whether the loss of any run is ever NaN or infinite."""
    return not all(math.isfinite(row.loss) for row in all_rows([group]))


def nan_shares(runs):
    """Per epoch, the share of the runs that reached it whose loss is not finite."""
    shares = []
    for epoch in range(max(len(run.rows) for run in runs)):
        reached = [run.rows[epoch].loss for run in runs if len(run.rows) > epoch]
        shares.append(sum(not math.isfinite(loss) for loss in reached) / len(reached))
    return shares


def draw_strip(axes, groups, points):
    """Draw a lane for each group with NaN or infinite losses, ours or the article's; heights are shares of the runs.

    Returns the number of lanes.
    """
    lanes = {(group.number, group.short_name): group for group in groups if has_nan_loss(group)}
    reported = {
        number: [epoch for epoch, (loss, _) in figures.items() if math.isnan(loss)]
        for number, figures in points.items()
    }
    for number, epochs in reported.items():
        if epochs:
            lanes.setdefault((number, str(number)), None)
    for lane, (number, name) in enumerate(sorted(lanes)):
        group = lanes[number, name]
        if group:
            floor, shares = lane + 0.35, nan_shares(group.runs)
            style = dict(color=group.style["color"], alpha=NAN_BAR["alpha"], linewidth=0)
            tops = [floor - 0.7 * share for share in shares]
            axes.stairs(tops, np.arange(0.5, len(shares) + 1), baseline=floor, fill=True, **style)
        if name == str(number):
            epochs = reported.get(number, [])
            axes.plot(epochs, [lane] * len(epochs), **base_style(number), **HOLLOW | {"markersize": 6})
    infinite = any(math.isinf(row.loss) for row in all_rows(groups))
    names = [f"{'NaN, inf' if infinite else 'NaN'} in {name}" for _, name in sorted(lanes)]
    axes.set(ylim=(len(lanes) - 0.5, -0.5), yticks=range(len(lanes)), yticklabels=names, facecolor="#F3F3F3")
    axes.tick_params(length=0)
    axes.grid(False)
    return len(lanes)


def scale_loss(axes, shown, sizes):
    """Give the loss a log axis of a decade or more; mark chance for the common size n, or 1,000."""
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
    """Give the accuracy a log axis of the error plus half an image, which separates 0.991, 0.995 and 1."""
    half = 0.5 / max(sizes)
    scale = (lambda accuracy: -np.log10(1 + half - accuracy), lambda height: 1 + half - 10**-height)
    axes.set_yscale("function", functions=scale)
    top = 1 + half - 0.8 * (1 + half - max([0.9, *shown]))
    axes.set(ylim=(-0.1, top), ylabel="test accuracy (log axis of the error)")
    axes.yaxis.set_major_locator(FixedLocator(ACCURACIES))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def draw_legend(figure, axes, notes, height):
    """Put the legend of axes, with the notes (text, properties) in grey, below plots of this height in inches."""
    entries = axes.get_legend_handles_labels()[0]
    entries += [Line2D([], [], label=text, color=GREY, **style) for text, style in notes]
    rows = -(-len(entries) // 2)
    widths = [max((len(entry.get_label()) for entry in part), default=0) for part in (entries[:rows], entries[rows:])]
    if sum(widths) > 96:  # characters that fit into two columns
        rows = len(entries)
    figure.set_size_inches(8, height + 0.21 * rows)
    figure.legend(handles=entries, loc="outside lower center", ncols=-(-len(entries) // rows), handlelength=3)


def precision_note(groups):
    """The legend's note on groups in mixed precision, list of (text, properties)."""
    mixed = [group for group in groups if group.mixed and "mixed" not in group.variant]
    if not mixed:
        return []
    text = "all" if len(mixed) == len(groups) else ", ".join(group.short_name for group in mixed)
    return [(f"in mixed precision: {text}", dict(linestyle=""))]


def last_finite_points(curves):
    """Return [(group, x, y)], the last finite point of each of {group: Curve} that stops before its last epoch."""
    found = []
    for group, curve in curves.items():
        end = last_finite(curve)
        if end is not None and end + 1 < len(curve.x):
            found.append((group, curve.x[end], curve.median[end]))
    return found


def nan_weights_points(curves):
    """Return [(group, epoch, y)], the first epoch in which half of a group's furthest runs have NaN weights."""
    found = []
    for group, curve in curves.items():
        epochs = sorted(run.nan_weights or math.inf for run in furthest(group.runs))
        epoch = epochs[(len(epochs) - 1) // 2]
        if epoch <= len(curve.x):
            found.append((group, epoch, curve.median[epoch - 1]))
    return found


def draw_crosses(axes, points, text):
    """Draw a cross at each (group, x, y), and return the legend's note on them."""
    for group, x, y in points:
        axes.plot(x, y, color=group.style["color"], **CROSS)
    return [(text, CROSS)] if points else []


def crowds(axes, points, column):
    """Return [(epoch, numbers, values)] of the article's figures where three or more coincide."""
    found = []
    for epoch in sorted({epoch for figures in points.values() for epoch in figures}):
        values = {number: figures[epoch][column] for number, figures in points.items() if epoch in figures}
        places = {n: axes_heights(axes, [epoch], [value])[0] for n, value in values.items() if math.isfinite(value)}
        for height in sorted(places.values()):
            near = [number for number in places if 0 <= places[number] - height < 0.02]
            if len(near) > 2:
                found.append((epoch, near, [values[number] for number in near]))
                break
    return found


def draw_article(axes, points, column, groups):
    """Draw the article's figures, column 0 for the loss and 1 for the accuracy, and return the legend's note on them.

    An experiment without a group has its own line in the legend. Where figures of several experiments coincide, one
    grey marker with their numbers stands for them.
    """
    merged = crowds(axes, points, column)
    for number, figures in points.items():
        alone = number not in {group.number for group in groups}
        label = f"{number} {title(number)} (the article)" if alone else None
        epochs = [e for e in figures if not any(e == epoch and number in numbers for epoch, numbers, _ in merged)]
        values = [figures[epoch][column] for epoch in epochs]
        axes.plot(epochs, values, label=label, **base_style(number), **HOLLOW)
    for epoch, numbers, values in merged:
        axes.plot([epoch], [np.mean(values)], marker="o", color=GREY, **HOLLOW)
        below = axes_heights(axes, [epoch], [np.mean(values)])[0] > 0.5
        place = dict(va="top", xytext=(0, -7)) if below else dict(va="bottom", xytext=(0, 7))
        axes.annotate(" ".join(map(str, numbers)), (epoch, np.mean(values)), rotation=90, **CROWD | place)
    return [("hollow: the article's figures", dict(marker="o", **HOLLOW))] if points else []


def draw_epochs(groups, field, points):
    """Return the figure of a field, loss or accuracy, against the epoch; points as of curves.comparable_figures."""
    groups, rows = styled(groups), all_rows(groups)
    column = ("loss", "accuracy").index(field)
    reported = [pair for figures in points.values() for pair in figures.values()]
    losses = [row.loss for row in rows] + [loss for loss, _ in reported]
    strip = field == "loss" and not all(map(math.isfinite, losses))
    figure, axes = plt.subplots(1 + strip, sharex=True, squeeze=False, layout="constrained")
    axes, lanes = axes[-1, 0], 0
    if strip:
        lanes = draw_strip(figure.axes[0], groups, points)
        axes.get_gridspec().set_height_ratios([0.22 * lanes, 4])
    figure.get_layout_engine().set(h_pad=0.06, w_pad=0.1, hspace=0)
    figure.axes[0].set_title(f"AlexNet on MNIST: test {field}")
    epoch_axis(axes, max([row.epoch for row in rows] + [epoch for figures in points.values() for epoch in figures]))
    scale = scale_loss if field == "loss" else scale_accuracy
    shown = [getattr(row, field) for row in rows] + [pair[column] for pair in reported]
    scale(axes, shown, {group.test_images for group in groups} | ({1000} if reported else set()))
    curves = {group: median_and_range(group.runs, field) for group in groups}
    drawn = draw_lines(axes, curves)
    if field == "loss":
        crosses = draw_crosses(axes, last_finite_points(curves), "the last loss before NaN")
    else:
        crosses = draw_crosses(axes, nan_weights_points(curves), "the weights turn NaN")
    notes = draw_article(axes, points, column, groups)
    if strip and any(len(group.runs) > 1 for group in groups):
        notes.append(("share of the seeds that are NaN", NAN_BAR))
    draw_legend(figure, axes, notes + crosses + drawn + precision_note(groups), 4.2 + 0.22 * lanes)
    return figure


def scale_gap(axes, shown):
    """Set the limits of the logit gap's axis for all but explosions, and draw the line where the naive loss is NaN."""
    shown = [gap for gap in shown if 0 < gap < EXPLOSION]
    axes.set_ylim(min([1, *shown]) * 0.7, max([200, *shown]) * 12)
    axes.axhline(UNDERFLOW, color=GREY, linewidth=0.8, zorder=1)
    text = "beyond 87 a softmax entry is 0: the naive loss is NaN"
    axes.annotate(text, (0.6, UNDERFLOW), (0, 4), xycoords=("axes fraction", "data"), **NOTE)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def draw_gaps(axes, curves, gaps, line_height, median_of="seeds"):
    """Draw {group: Curve} of logit gaps, explosions as text at the upper edge.

    gaps is {group: list of (x, gap) of all its runs}. Returns the curves without explosions, and the legend's notes.
    """
    cut = {
        group: Curve(curve.x, *np.where(np.less(curve[1:], EXPLOSION), curve[1:], NAN))
        for group, curve in curves.items()
    }
    notes = draw_lines(axes, cut, line_height, OFF_SCALE, median_of)
    offsets, top = {}, axes.get_ylim()[1]
    for group, pairs in gaps.items():
        x, gap = next(((x, gap) for x, gap in pairs if not gap < EXPLOSION), (None, None))
        if x is not None:
            offsets[x] = offsets.get(x, -4) + 13
            text, colour = f"\u2191 {group.short_name}: {power_of_ten(gap)}", group.style["color"]
            axes.annotate(text, (x, top), (-4, -offsets[x]), textcoords="offset points", color=colour)
    return cut, notes


def power_of_ten(value):
    """5e12 as Matplotlib's mathtext writes it; "not finite" for infinity and NaN."""
    if not math.isfinite(value):
        return "not finite"
    digit, power = f"{value:.0e}".split("e+")
    return f"${digit} \\cdot 10^{{{power}}}$"


def draw_gap(groups):
    """Return the figure of the widest logit gap of each epoch; None if no CSV has it."""
    groups = styled([group for group in groups if any(row.logit_gap is not None for row in all_rows([group]))])
    if not groups:
        return None
    gaps = {g: [(row.epoch, row.logit_gap) for row in all_rows([g]) if row.logit_gap is not None] for g in groups}
    figure, axes = plt.subplots(layout="constrained")
    axes.set_title("AlexNet on MNIST: how far apart the logits lie")
    epoch_axis(axes, max(row.epoch for row in all_rows(groups)))
    axes.set_yscale("symlog", linthresh=100, linscale=4)  # most room for the range up to 87
    axes.yaxis.set_major_locator(FixedLocator((0, 20, 40, 60, 80, 100, 1000, 10_000)))
    scale_gap(axes, [gap for pairs in gaps.values() for _, gap in pairs])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("widest logit gap of the epoch (log from 100)")
    curves = {group: median_and_range(group.runs, "logit_gap") for group in groups}
    cut, notes = draw_gaps(axes, curves, gaps, 0.05)
    turns = [point for point in nan_weights_points(cut) if math.isfinite(point[2])]
    crosses = draw_crosses(axes, turns, "the loss turns NaN")
    draw_legend(figure, axes, crosses + notes + precision_note(groups), 4.2)
    return figure


def log_binned(traces, leading, field):
    """Return the Curve of a field in bins of iterations that grow: the median of leading traces, the range of all."""
    last = max(len(trace) for trace in traces)
    edges = np.unique(np.geomspace(1, last + 1, 150).astype(int))
    points = []
    for first, end in zip(edges, edges[1:]):
        values, reached = [
            finite(getattr(row, field) for trace in several for row in trace[first - 1 : end - 1])
            for several in (leading, traces)
        ]
        points.append((math.sqrt(first * (end - 1)), float(np.median(values)), min(reached), max(reached)))
    return Curve(*zip(*points))


def nan_iteration(traces):
    """Return (iteration, logit gap) where the median trace ends in a NaN; None unless more than half of them do."""
    ends = [trace[-1] for trace in traces if not math.isfinite(trace[-1].train_loss)]
    ends = sorted((row.iteration, row.logit_gap) for row in ends)
    return ends[len(ends) // 2] if 2 * len(ends) > len(traces) else None


def draw_iterations(groups):
    """Return the figure of logit gap and training accuracy against the iteration; None if there is no trace."""
    read = {run.path: trace for group in groups for run in group.runs if (trace := run.trace())}
    traced = {group.key: [run for run in group.runs if run.path in read] for group in groups}
    groups = styled([group for group in groups if traced[group.key]])
    if not groups:
        return None
    traces = {group: [read[run.path] for run in traced[group.key]] for group in groups}
    leading = {group: [read[run.path] for run in furthest(traced[group.key])] for group in groups}
    figure, (above, below) = plt.subplots(2, sharex=True, layout="constrained")
    above.set_title("AlexNet on MNIST: logits and training accuracy, batch by batch")
    last = max(len(trace) for several in traces.values() for trace in several)
    above.set(xscale="log", yscale="log", xlim=(0.9, last * 1.1), ylabel="widest logit gap of the batch")
    below.set(ylim=(0, 1.02), xlabel="iteration", ylabel="training accuracy")
    below.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    gaps = {g: [(row.iteration, row.logit_gap) for trace in traces[g] for row in trace] for g in groups}
    scale_gap(above, [gap for pairs in gaps.values() for _, gap in pairs])
    curves = {group: log_binned(traces[group], leading[group], "logit_gap") for group in groups}
    notes = draw_gaps(above, curves, gaps, 0.08, "batches")[1]
    ends = [(group, *end) for group in groups if (end := nan_iteration(leading[group])) and end[1] < EXPLOSION]
    crosses = draw_crosses(above, ends, "the loss turns NaN")
    draw_lines(below, {group: log_binned(traces[group], leading[group], "train_accuracy") for group in groups}, 0.08)
    draw_legend(figure, above, crosses + notes + precision_note(groups), 5)
    return figure


def fingerprint(figure):
    """A hash of what a figure shows: texts, and the data and styles of lines, bars and bands.

    It does not depend on the machine or on the version of Matplotlib, as the pixels do.
    """

    def rounded(values):
        return [f"{value:.5g}" for value in np.ravel(np.asarray(values, float))]

    shown = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    for axes in figure.axes:
        shown += [axes.get_title(), axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale(), axes.get_yscale()]
        shown += [text.get_text() for text in axes.texts]
        for line in axes.get_lines():
            shown += [line.get_color(), line.get_linestyle(), line.get_marker(), line.get_markerfacecolor()]
            shown += rounded(line.get_xydata())
        shown += [rounded(part) for patch in axes.patches for part in patch.get_data()[:2]]
        shown += [rounded(band.get_paths()[0].vertices) for band in axes.collections]
    return hashlib.sha256(repr(shown).encode()).hexdigest()
