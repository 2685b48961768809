"""plot_results.py: the groups, the pictures, the tables and the error lines; and read_csv on any bytes."""

import math
import os
from pathlib import Path
import shutil
import subprocess
import sys

from common.cli import UserError
from common.curves import ARTICLE, article, fullest, load_groups, spread, title
from common.pictures import draw, draw_gap, draw_iterations, epoch_axis, look, looks, marked
from common.results import Iteration, Row, read_csv, write_csv, write_record
from common.tables import COMPARED, DETAILED, cell, comparison, details, share, short
from hypothesis import given, settings
from hypothesis import strategies as st
import matplotlib
import matplotlib.pyplot as plt
from matplotlib.text import Text
import pytest
from test_scripts import SMALL

import plot_results
from plot_results import main

matplotlib.use("Agg")
NAN, INF = math.nan, math.inf
SCRIPT = Path(plot_results.__file__)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def make(folder, name, losses, accuracies=None, record=True, nan_weights=None, epochs=None, cause=None, gap=None):
    """Write a run of the given losses, 2 seconds an epoch, as the training loop would, and return its CSV's path.

    cause is (kind, epoch, iteration, logit gap) of the first loss that was not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    accuracies = accuracies or [0.085 if math.isnan(loss) else 0.95 if loss < 300 else 0.1 for loss in losses]
    rows = []
    for epoch, (loss, accuracy) in enumerate(zip(losses, accuracies), start=1):
        trained = nan_weights is None or epoch < nan_weights
        rest = (
            (loss / 5, accuracy, 2.0, gap and gap[epoch - 1]) if trained else (None, None, None, gap and gap[epoch - 1])
        )
        rows.append(Row(epoch, loss, accuracy, *rest))
    write_csv(folder / f"{name}.csv", rows)
    if record:
        facts = {"complete": epochs is None, "arguments": {"epochs": epochs or len(losses)}}
        facts["nan_weights"] = nan_weights and {"epoch": nan_weights, "iteration": 7}
        facts["nan_cause"] = cause and dict(zip(("cause", "epoch", "iteration", "logit_gap"), cause))
        write_record(folder / f"{name}.json", {"experiment": name[:8], **facts})
    return folder / f"{name}.csv"


def drop(epoch, length=10, low=40.0):
    """Losses on the plateau until an epoch, then low."""
    return [2300.0 if e < epoch else low for e in range(1, length + 1)]


def curves(axes):
    """{label: line} of the curves, without crosses and the article's markers."""
    lines = {line.get_label(): line for line in axes.get_lines()}
    return {
        label: line for label, line in lines.items() if not label.startswith("_") and line.get_linestyle() != "None"
    }


def crosses(axes):
    """The places of the crosses in a plot."""
    return sorted((line.get_xdata()[0], line.get_ydata()[0]) for line in axes.get_lines() if line.get_marker() == "x")


def bars(axes):
    """{lane: {epoch: height}} of the strip's bars, those of no height left out."""
    lanes = {}
    for patch in axes.patches:
        tops, edges, floor = patch.get_data()
        for top, left in zip(tops, edges):
            if top < floor:
                lanes.setdefault(round(float(floor)), {})[round(left + 0.5)] = round((floor - top) / 0.7, 3)
    return lanes


def hollow(axes):
    """{(colour, epochs)} of the article's markers."""
    lines = [line for line in axes.get_lines() if line.get_markerfacecolor() == "none" and len(line.get_xdata())]
    return {(line.get_color(), tuple(line.get_xdata())) for line in lines}


def texts_overlap(axes):
    """Whether any two texts in a plot, its title among them, cover each other."""
    axes.figure.canvas.draw()
    texts = [child for child in axes.get_children() if isinstance(child, Text) and child.get_text()]
    boxes = [text.get_window_extent() for text in texts]
    return any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def legend_texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def table(groups, render=comparison):
    """{first cell: the others} of a table's rows, as Markdown has them."""
    rows = [[part.strip() for part in line.split("|")[1:-1]] for line in render(groups, markdown=True).splitlines()]
    return {first: cells for first, *cells in rows[2:]}


# Groups


def test_groups_by_name_without_seed(tmp_path):
    for name in ("alexnet2", "alexnet2-seed1", "alexnet2-seed12", "alexnet2-fused-seed1", "alexnet7-fused"):
        make(tmp_path, name, [2300.0])
    make(tmp_path, "alexnet6-train2000-test500-epochs2-seed3", [100.0])
    (tmp_path / "trace").mkdir()
    (tmp_path / "trace" / "alexnet2.csv").write_text("iteration,train_loss\n1,2\n")
    (tmp_path / "alexnet2.csv.old1").write_text("moved aside")
    (tmp_path / "notes.csv").write_text("of somebody")
    make(tmp_path / "short", "alexnet2-epochs1", [2300.0])
    make(tmp_path, "alexnet10", [2300.0])
    groups = load_groups([tmp_path])
    assert [(group, len(runs)) for group, runs in groups.items()] == [
        ("alexnet2", 3),
        ("alexnet2-fused", 1),
        ("alexnet6-train2000-test500-epochs2", 1),
        ("alexnet7-fused", 1),
        ("alexnet10", 1),
    ]


def test_the_same_file_twice_is_one_run(tmp_path):
    path = make(tmp_path, "alexnet2", drop(3))
    assert [len(runs) for runs in load_groups([path, tmp_path]).values()] == [1]


def test_record_tells_of_progress_and_of_nan_weights(tmp_path):
    make(tmp_path, "alexnet2", [2300.0, NAN, NAN], nan_weights=2)
    make(tmp_path, "alexnet3", [2300.0], epochs=50)
    make(tmp_path, "alexnet4", [100.0], record=False)
    (two,), (three,), (four,) = load_groups([tmp_path]).values()
    assert (two.epochs, two.nan_weights) == (3, 2)
    assert (three.epochs, three.nan_weights) == (50, None)
    assert (four.epochs, four.nan_weights) == (1, 0)


def test_the_fullest_runs_of_the_protocol_are_shown(tmp_path):
    make(tmp_path, "alexnet2", drop(3, 3), epochs=50)
    make(tmp_path, "alexnet2-mixed", drop(3, 10))
    make(tmp_path, "alexnet3", drop(3))
    make(tmp_path, "alexnet3-mixed", drop(3))
    make(tmp_path, "alexnet4", drop(3))
    for seed in ("", "-seed1"):
        make(tmp_path, f"alexnet4-mixed{seed}", drop(3))
    for name in ("2-fused-mixed", "2-epochs12", "5-train2000", "6-test500", "7-batch50", "7-opencv", "1-data1a2b3c4d"):
        make(tmp_path, f"alexnet{name}", drop(3, 12))
    groups = load_groups([tmp_path])
    assert list(fullest(groups)) == ["alexnet2-mixed", "alexnet3", "alexnet4-mixed"]
    assert list(fullest(groups, ["fused"]))[:2] == ["alexnet2-mixed", "alexnet2-fused-mixed"]
    assert len(fullest(groups, ["fused"])) == 4


# Figures


def test_a_plateau_and_its_drop_are_drawn_as_they_are(tmp_path):
    make(tmp_path, "alexnet2", drop(4))
    groups = load_groups([tmp_path])
    (axes,) = draw(groups, "loss", {}).axes
    (line,) = [line for label, line in curves(axes).items() if label == "2 stddev 0.01"]
    assert list(line.get_xdata()) == list(range(1, 11)) and list(line.get_ydata()) == drop(4)
    assert (axes.get_yscale(), axes.get_xlabel()) == ("log", "epoch")
    assert axes.get_ylabel() == "test loss (sum over 1,000 images)"
    low, high = axes.get_ylim()
    assert low < 40 and high > 2303 and crosses(axes) == []
    assert any(text.get_text() == "chance: 1,000 ln 10 = 2,302.6" for text in axes.texts)
    assert [text.get_text() for text in axes.texts][-1] == "2"  # where the line ends
    assert list(axes.get_xticks()) == list(range(1, 11))
    (axes,) = draw(groups, "accuracy", {}).axes
    assert list(curves(axes)["2 stddev 0.01"].get_ydata()) == [0.1] * 3 + [0.95] * 7


@pytest.mark.parametrize("best", [0.991, 1.0])
def test_accuracies_near_1_are_apart(tmp_path, best):
    make(tmp_path, "alexnet2", [30.0] * 50, [0.085] + [0.987] * 49)
    make(tmp_path, "alexnet6", [30.0] * 50, [0.987] + [best] * 49)
    (axes,) = draw(load_groups([tmp_path]), "accuracy", {}).axes
    nan, worse, better = axes.transAxes.inverted().transform(
        axes.transData.transform([(1, a) for a in (0.085, 0.987, best)])
    )
    assert 0 < nan[1] < 0.1 and worse[1] + 0.05 < better[1] < 1
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert {"0", "0.9", "0.98"} <= set(labels) and list(axes.get_xticks()) == [1, *range(5, 51, 5)]


def test_lines_that_lie_on_each_other_take_turns(tmp_path):
    for number, losses in {2: drop(6), 3: drop(5), 4: [50.0] * 10, 5: drop(9)}.items():
        make(tmp_path, f"alexnet{number}", losses)
    (axes,) = draw(load_groups([tmp_path]), "loss", {}).axes
    patterns = {line.get_color(): line._unscaled_dash_pattern for line in axes.get_lines() if line.is_dashed()}
    dashed = {number: patterns[look(number)["color"]] for number in (2, 3, 4, 5)}
    assert [offset for offset, _ in dashed.values()] == [0, 5, 0, 10]
    assert all(pattern == (5, 10) for _, pattern in dashed.values())
    make(tmp_path / "apart", "alexnet2", drop(6))
    make(tmp_path / "apart", "alexnet4", [50.0] * 10)
    (axes,) = draw(load_groups([tmp_path / "apart"]), "loss", {}).axes
    assert not any(line.is_dashed() for line in axes.get_lines())


def test_all_experiments_have_their_colour_label_and_marker(tmp_path):
    for number in ARTICLE:
        make(tmp_path, f"alexnet{number}", [100.0] * 3)
    lines = curves(draw(load_groups([tmp_path]), "accuracy", {}).axes[0])
    assert list(lines) == [f"{number} {title(number)}" for number in ARTICLE]
    drawn = [(line.get_color(), line.get_marker()) for line in lines.values()]
    assert drawn == [tuple(look(number).values()) for number in ARTICLE]
    assert [len(set(column)) for column in zip(*drawn)] == [7, 7]
    assert len({tuple(look(number).values()) for number in range(1, 50)}) == 49


@pytest.mark.parametrize("epochs", [12, 600, 1201, 10_000, 100_000])
def test_any_number_of_epochs_has_a_few_ticks(epochs):
    axes = plt.subplots()[1]
    epoch_axis(axes, epochs)
    first, *ticks = axes.get_xticks()
    assert first == 1 and 4 <= len(ticks) <= 12 and ticks[-1] <= epochs


def test_the_strip_of_a_long_run_is_one_patch(tmp_path):
    """A bar an epoch took 44 seconds for 10,000."""
    make(tmp_path, "alexnet2-epochs2000", [30.0, NAN] * 1000)
    strip, _ = draw(load_groups([tmp_path]), "loss", {}).axes
    assert len(strip.patches) == 1 and bars(strip) == {0: dict.fromkeys(range(2, 2001, 2), 1)}


def test_a_late_nan_shows_on_curve_and_strip(tmp_path):
    make(tmp_path, "alexnet2", [2300.0, 30.0, NAN, NAN], nan_weights=3)
    make(tmp_path, "alexnet2-fused", [2300.0, NAN, NAN, NAN], nan_weights=2)
    figure = draw(load_groups([tmp_path]), "loss", {})
    strip, axes = figure.axes
    assert crosses(axes) == [(1, 2300.0), (2, 30.0)] and crosses(strip) == []
    assert [tick.get_text() for tick in strip.get_yticklabels()] == ["2", "2 fused"]
    assert strip.get_ylabel() == "NaN in" and bars(strip) == {0: {3: 1, 4: 1}, 1: {2: 1, 3: 1, 4: 1}}
    assert "the last loss before NaN" in legend_texts(figure)
    figure = draw(load_groups([tmp_path]), "accuracy", {})
    assert crosses(figure.axes[0]) == [(2, 0.085), (3, 0.085)] and "the weights turn NaN" in legend_texts(figure)


def test_nan_from_the_first_epoch_is_in_sight(tmp_path):
    make(tmp_path, "alexnet1", [NAN] * 5, nan_weights=1)
    make(tmp_path, "alexnet7", [NAN] * 5, nan_weights=1)
    figure = draw(load_groups([tmp_path]), "loss", {})
    strip, axes = figure.axes
    assert {lane: len(epochs) for lane, epochs in bars(strip).items()} == {0: 5, 1: 5} and crosses(axes) == []
    assert [tick.get_text() for tick in strip.get_yticklabels()] == ["1", "7"]
    assert legend_texts(figure)[:2] == [f"1 {title(1)}", f"7 {title(7)}"]
    assert all(math.isfinite(limit) for limit in axes.get_ylim())


def test_nan_loss_with_finite_weights_leaves_a_gap_and_the_accuracy(tmp_path):
    make(tmp_path, "alexnet5", [100.0, NAN, 50.0, NAN, 40.0, INF], [0.95] * 6)
    groups = load_groups([tmp_path])
    strip, axes = draw(groups, "loss", {}).axes
    line = curves(axes)[f"5 {title(5)}"]
    assert [math.isnan(y) for y in line.get_ydata()] == [False, True, False, True, False, True]
    assert {0, 2, 4} <= set(line.get_markevery())
    assert strip.get_ylabel() == "NaN, inf in" and list(bars(strip)[0]) == [2, 4, 6]
    assert crosses(draw(groups, "accuracy", {}).axes[0]) == []
    assert table(groups)["5 ours"][2] == "2" and table(groups, details)["5"][-1] == "-"


def test_seeds_become_a_median_and_a_band(tmp_path):
    for seed, epoch in enumerate((4, 6, 5)):
        make(tmp_path, f"alexnet3-seed{seed}", drop(epoch))
    figure = draw(load_groups([tmp_path]), "loss", {})
    (axes,) = figure.axes
    assert list(curves(axes)["3 step learning-rate decay (3 seeds)"].get_ydata()) == drop(5)
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (40, 2300)
    assert "median of the seeds, band: their range" in legend_texts(figure)


def test_a_nan_seed_leaves_the_median_not_the_picture(tmp_path):
    for seed, losses in enumerate(([9.0, 10.0, NAN, NAN], [9.0, 20.0, NAN, NAN], [9.0, 30.0, 30.0, NAN], [9.0] * 4)):
        make(tmp_path, f"alexnet2-seed{seed}", losses, nan_weights=4 - (seed < 2) if seed < 3 else None)
    groups = load_groups([tmp_path])
    median, low, high = spread(groups["alexnet2"], "loss")
    assert median[:3] == (9.0, 15.0, 19.5) and math.isnan(median[3])  # at 4 one of four is finite: no median
    assert low == (9.0, 9.0, 9.0, 9.0) and high == (9.0, 30.0, 30.0, 9.0)
    figure = draw(groups, "loss", {})
    strip, axes = figure.axes
    assert crosses(axes) == [(3, 19.5)] and bars(strip) == {0: {3: 0.5, 4: 0.75}}
    assert "share of the seeds that are NaN" in legend_texts(figure)
    assert spread(groups["alexnet2"], "accuracy")[1][3] == 0.085
    assert crosses(draw(groups, "accuracy", {}).axes[0]) == [(3, spread(groups["alexnet2"], "accuracy")[0][2])]


def test_many_seeds_do_not_bury_the_curve(tmp_path):
    for seed in range(40):
        losses = [NAN if epoch >= 5 + seed % 9 else loss for epoch, loss in enumerate(drop(3, 20), start=1)]
        make(tmp_path, f"alexnet2-seed{seed}", losses, nan_weights=5 + seed % 9)
    for field in ("loss", "accuracy"):
        *_, axes = draw(load_groups([tmp_path]), field, {}).axes
        assert len(crosses(axes)) == 1 and len(axes.get_lines()) <= 3


def test_what_is_not_the_protocol_is_dashed_and_named(tmp_path):
    for name in ("alexnet2", "alexnet2-fused", "alexnet2-batch50"):
        make(tmp_path, name, drop(4))
    lines = curves(draw(load_groups([tmp_path]), "accuracy", {}).axes[0])
    assert list(lines) == ["2 stddev 0.01", "2 batch50", "2 fused"]
    assert [line.is_dashed() for line in lines.values()] == [False, True, True]
    assert len({str(line._unscaled_dash_pattern) for line in lines.values()}) == 3
    assert len({line.get_color() for line in lines.values()}) == 1


def test_mixed_precision_is_a_full_member_and_said_once(tmp_path):
    for name in ("alexnet1", "alexnet2-mixed", "alexnet2-mixed-seed1", "alexnet6-mixed", "alexnet7-fused-mixed"):
        make(tmp_path, name, drop(4))
    groups = load_groups([tmp_path])
    figure = draw(groups, "loss", {})
    lines = curves(figure.axes[0])
    assert list(lines)[1:] == ["2 stddev 0.01 (2 seeds)", "6 batch norm", "7 fused"]
    assert [line.is_dashed() for line in lines.values()] == [False, False, False, True]
    assert "in mixed precision: 2, 6, 7 fused" in legend_texts(figure)
    assert "in mixed precision: all" in legend_texts(
        draw(fullest({"alexnet2-mixed": groups["alexnet2-mixed"]}), "loss", {})
    )
    make(tmp_path, "alexnet2", drop(5))
    styles = looks(load_groups([tmp_path]))
    assert [styles[name]["label"] for name in ("alexnet2", "alexnet2-mixed")] == ["2 stddev 0.01", "2 mixed (2 seeds)"]
    assert styles["alexnet2-mixed"]["linestyle"] != "-"


def test_other_test_sizes_change_axis_label_and_chance(tmp_path):
    make(tmp_path, "alexnet6-train2000-test500-epochs2", [600.0, 100.0])
    groups = load_groups([tmp_path])
    (axes,) = draw(groups, "loss", {}).axes
    assert axes.get_ylabel() == "test loss (sum over 500 images)"
    assert [text.get_text() for text in axes.texts][:1] == ["chance: 500 ln 10 = 1,151.3"]
    assert "each run's" in draw(groups, "loss", {6: ARTICLE[6][1]}).axes[0].get_ylabel()
    make(tmp_path, "alexnet6-test10", [20.0])
    (axes,) = draw(load_groups([tmp_path]), "loss", {}).axes
    assert axes.get_ylabel() == "test loss (sum over each run's test images)"
    assert not any("chance" in text.get_text() for text in axes.texts)


def test_a_single_epoch_has_a_marker_and_room(tmp_path):
    make(tmp_path, "alexnet4", [170.0])
    for field in ("loss", "accuracy"):
        (axes,) = draw(load_groups([tmp_path]), field, {}).axes
        assert curves(axes)["4 get_variable"].get_markevery() == [0]
        assert axes.get_xlim() == (0.5, 1.5) and axes.get_ylim()[0] < axes.get_ylim()[1]


@pytest.mark.parametrize("length", [1, 2, 7, 8, 15, 50, 69, 1000])
@pytest.mark.parametrize("number", range(1, 8))
def test_every_curve_has_markers(length, number):
    indices = marked([1.0] * length, number)
    assert indices and indices[0] < max(1, length // 8) and indices[-1] < length and len(indices) <= 16


def test_unfinished_runs_say_so(tmp_path):
    make(tmp_path, "alexnet2-mixed", drop(3, 4), epochs=50)
    make(tmp_path, "alexnet3", drop(3, 10))
    make(tmp_path, "alexnet3-seed1", drop(3, 2), epochs=50)
    groups = load_groups([tmp_path])
    texts = legend_texts(draw(groups, "loss", {}))
    assert texts[:2] == ["2 stddev 0.01 (epoch 4 of 50)", "3 step learning-rate decay (2 seeds, 1 unfinished)"]
    assert len(spread(groups["alexnet3"], "loss")[0]) == 10
    assert {"2 ours mixed (epoch 4 of 50)", "3 ours (1 unfinished)"} <= set(table(groups))


@pytest.mark.parametrize("losses", [[0.0], [1e30, 5.0], [-1.0, 0.0], [INF], [-INF, 2.0]])
def test_odd_losses_draw(tmp_path, losses):
    make(tmp_path, "alexnet1-fused", losses, [0.1] * len(losses), gap=losses)
    groups = load_groups([tmp_path])
    for figure in (draw(groups, "loss", {}), draw(groups, "accuracy", {}), draw_gap(groups)):
        figure.canvas.draw()
    assert comparison(groups) and details(groups)


def test_the_articles_points(tmp_path):
    for number in (1, 2, 7):
        make(tmp_path, f"alexnet{number}", [NAN] * 3 if number != 2 else drop(2, 3), epochs=50)
    make(tmp_path, "alexnet6-epochs1", [40.0])
    make(tmp_path, "alexnet4-train2000", [40.0] * 50)
    make(tmp_path, "alexnet8", [40.0])
    groups = load_groups([tmp_path])
    points = article(groups)
    assert points == {1: ARTICLE[1][1], 2: ARTICLE[2][1], 6: {1: ARTICLE[6][1][1]}}
    figure = draw(groups, "loss", points)
    strip, axes = figure.axes
    assert (look(2)["color"], tuple(ARTICLE[2][1])) in hollow(axes) and len(hollow(axes)) == 3
    assert hollow(strip) == {(look(1)["color"], (1, 2, 3, 4)), (look(2)["color"], (47, 48, 49, 50))}
    assert axes.get_xlim()[1] > 50 and "hollow: the article's figures" in legend_texts(figure)
    assert len(hollow(draw(groups, "accuracy", points).axes[0])) == 3
    assert set(article(groups, ARTICLE)) == {1, 2, 3, 5, 6}
    figure = draw(groups, "loss", article(groups, ARTICLE))
    assert "3 step learning-rate decay (the article)" in legend_texts(figure)


def test_article_holds_what_it_reports():
    told = {number: figures for number, (_, figures) in ARTICLE.items()}
    assert list(told) == list(range(1, 8)) and told[7] == {}
    assert list(told[1]) == [1, 2, 3, 4]
    assert all(math.isnan(loss) and accuracy == 0.085 for loss, accuracy in told[1].values())
    assert told[2][12] == (1955.1497, 0.391) and math.isnan(told[2][47][0]) and told[2][46][1] == 0.99
    assert list(told[2]) == [1, 2, 11, 12, 13, 14, 44, 45, 46, 47, 48, 49, 50]
    assert told[3][11] == (678.09644, 0.788) and told[3][50] == (34.458153, 0.988)
    assert told[4] == {1: (170.07048, 0.936), 2: (86.70665, 0.972), 50: (26.004112, 0.99)}
    assert told[5][21] == (2114.1978, 0.301) and told[5][22] == (366.07996, 0.872)
    assert told[6][50] == (10.757448, 0.991)


def trace(folder, name, length, gap, nan=False):
    """Write a trace beside a run's CSV: accuracies from 0.1, the last loss NaN if told so."""
    (folder / "trace").mkdir(exist_ok=True)
    rows = [Iteration(i, 900.0, 0.1 + 0.9 * (i - 1) / length, gap + i % 2) for i in range(1, length + 1)]
    if nan:
        rows[-1] = rows[-1]._replace(train_loss=NAN, logit_gap=88.0)
    write_csv(folder / "trace" / f"{name}.csv", rows)


def test_traces_become_a_picture(tmp_path):
    make(tmp_path, "alexnet7", [NAN], nan_weights=1)
    assert draw_iterations(load_groups([tmp_path])) is None
    for name in ("alexnet2", "alexnet3", "alexnet7-fused", "alexnet7-fused-seed1"):
        make(tmp_path, name, [2300.0])
        trace(tmp_path, name, 3000, 50.0, nan=name == "alexnet2")
    figure = draw_iterations(load_groups([tmp_path]))
    above, below = figure.axes
    assert above.get_yscale() == "log" and list(curves(above)) == [
        "2 stddev 0.01",
        f"3 {title(3)}",
        "7 fused (2 seeds)",
    ]
    line, rising = curves(above)["2 stddev 0.01"], curves(below)["2 stddev 0.01"]
    assert line.get_xdata()[0] == 1 and len(line.get_xdata()) < 150 and line.get_xdata()[-1] > 2900
    assert list(line.get_ydata()[:2]) == [51.0, 50.0]  # single iterations, medians later
    assert line.get_ydata()[-1] == pytest.approx(50.5, abs=0.5)
    assert rising.get_ydata()[-1] == pytest.approx(0.1 + 0.9 * rising.get_xdata()[-1] / 3000, abs=0.01)
    assert crosses(above) == [(3000, 88.0)]
    assert legend_texts(figure)[3:] == ["the loss turns NaN", "median of the batches, band: their range"]
    texts = [text.get_text() for text in above.texts]
    assert "beyond 87 a softmax entry is 0: the naive loss is NaN" in texts and {"2", "7 fused"} <= set(texts)
    assert not texts_overlap(above) and all(0 <= text.xy[1] <= 1 for text in below.texts)
    main([str(tmp_path)])
    assert (tmp_path / "iterations.png").exists()


def test_the_gap_against_87(tmp_path):
    make(tmp_path, "alexnet1", [NAN] * 4, nan_weights=1, gap=[4e12, None, None, None])
    make(tmp_path, "alexnet1-fused", [NAN] * 4, nan_weights=1, gap=[NAN, None, None, None])
    make(tmp_path, "alexnet2", [40.0, 30.0, NAN, NAN], nan_weights=3, gap=[60.0, 70.0, 300.0, None])
    make(tmp_path, "alexnet3", drop(2, 4), gap=[0.5, 20.0, 30.0, 40.0])
    make(tmp_path, "alexnet4", drop(2, 4))
    figure = draw_gap(load_groups([tmp_path]))
    (axes,) = figure.axes
    assert list(curves(axes)["2 stddev 0.01"].get_ydata())[:3] == [60.0, 70.0, 300.0]
    assert crosses(axes) == [(3, 300.0)] and axes.get_ylim()[0] < 0.5 and 200 < axes.get_ylim()[1] < 10_000
    texts = [text.get_text() for text in axes.texts]
    assert {r"1: $4 \cdot 10^{12}$", "1 fused: not finite", "3"} <= set(texts) and not texts_overlap(axes)
    assert "4 get_variable" not in legend_texts(figure)  # its CSV has no gaps
    make(tmp_path / "old", "alexnet4", drop(2, 4))
    assert draw_gap(load_groups([tmp_path / "old"])) is None


def test_a_nan_in_the_last_epoch_is_crossed(tmp_path):
    make(tmp_path, "alexnet2", [40.0, NAN], nan_weights=2, gap=[60.0, 90.0])
    (axes,) = draw_gap(load_groups([tmp_path])).axes
    assert crosses(axes) == [(2, 90.0)]


# Tables


def test_comparison_sets_the_article_beside_ours(tmp_path):
    make(tmp_path, "alexnet2-mixed", drop(12, 50)[:46] + [NAN] * 4, nan_weights=47, cause=("log(0)", 47, 9, 88.5))
    make(tmp_path, "alexnet6-test500", [1140.0, 100.0])
    make(tmp_path, "alexnet7", [NAN] * 50)
    make(tmp_path, "alexnet8", drop(2))
    groups = load_groups([tmp_path])
    rows = table(groups)
    assert rows["2 the article"] == ["1", "12", "47", "2299, .122", "1955, .391", "", "nan, .085", ".990"]
    assert rows["2 ours mixed"] == [
        "1",
        "12",
        "47, log(0)",
        "2300, .100",
        "40.0, .950",
        "40.0, .950",
        "nan, .085",
        ".950",
    ]
    assert rows["6 test500"][:3] == ["1", "2", "-"]  # chance is 1,151
    assert rows["7 ours"] == ["1", "-", "1", *["nan, .085"] * 4, ".085"] and "7 the article" not in rows
    assert rows["8 ours"][1] == "2" and "lowest" not in rows
    lines = comparison(groups).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("2 ours mixed"))
    assert lines[at].split()[3:] == ["1", "12", "47", "2300", "40.0", "40.0", "nan", ".950"]
    assert lines[at + 1].split() == ["log(0)", ".100", ".950", ".950", ".085"]


def test_table_of_seeds_and_long_names(tmp_path):
    for seed, (epoch, nan) in enumerate(((11, 47), (12, None), (14, 45))):
        losses = [NAN if nan and e >= nan else loss for e, loss in enumerate(drop(epoch, 50), start=1)]
        cause = nan and ("explosion" if seed else "log(0)", nan, 1, 88.0)
        make(tmp_path, f"alexnet2-seed{seed}", losses, nan_weights=nan, cause=cause)
    name = "alexnet7-fused-data1a2b3c4d-train20000-test500-batch50-epochs10-opencv-mixed"
    make(tmp_path, name, [1e12], epochs=100000)
    groups = load_groups([tmp_path])
    rows = table(groups)
    assert rows["2 ours"][:3] == ["3", "12", "46 2/3, explosion, log(0)"]
    assert rows["2 ours"][4:] == ["40.0, .950", "40.0, .950", "40.0 1/3, .085", ".950"]
    assert rows["lowest"][1:4] == ["11", "45 2/3", "2300, .100"] and rows["highest"][1:3] == ["14", "47 2/3"]
    assert rows["highest"][4] == "2300, .950" and rows["highest"][6] == "40.0 1/3, .950"
    assert (
        rows["7 fused data1a2b3c4d train20000 test500 batch50 epochs10 opencv mixed (epoch 1 of 100000)"][3]
        == "1e+12, .100"
    )
    text = "\n".join([comparison(groups), COMPARED, details(groups), DETAILED])
    assert max(map(len, text.splitlines())) <= 80


def test_details_of_single_runs(tmp_path):
    kinds = [("log(0)", 3, 8, 90.0), ("log(0)", 2, None, 350.0), ("explosion", 1, 1, "inf"), None]
    for seed, kind in enumerate(kinds):
        losses = [2300.0, NAN, NAN] if kind else drop(2)
        nan = kind and kind[1]
        make(tmp_path, f"alexnet2-seed{seed}", losses, nan_weights=nan, cause=kind, gap=[0.5, 61.0] + [7.0] * 8)
    rows = table(load_groups([tmp_path]), details)
    assert rows["2 seed0"] == ["3 of 3", "2.00", "log(0)", "3:8", "90.0", "3"]
    assert rows["2 seed1"] == ["3 of 3", "2.00", "log(0)", "2:test", "350", "2"]
    assert rows["2 seed2"] == ["3 of 3", "-", "explosion", "1:1", "inf", "1"]
    assert rows["2 seed3"] == ["10 of 10", "2.00", "-", "", "61.0", "-"]


def test_a_csv_without_its_record_is_unknown(tmp_path):
    make(tmp_path, "alexnet2", [2300.0, NAN], record=False)
    make(tmp_path, "alexnet6", [10.757448], [0.991], record=False)
    groups = load_groups([tmp_path])
    assert table(groups)["2 ours"][2] == "2, ?" and table(groups)["6 ours"][2] == "-"
    assert [row[2:4] + row[5:] for row in table(groups, details).values()] == [["?", "", "?"]] * 2
    assert "finite" not in comparison(groups) + details(groups)


def test_cells():
    whole = "{:g}".format
    assert cell([None], whole) == "-" and cell([NAN], short) == "nan"
    assert cell([None] * 3, whole) == "-" and cell([INF, NAN], short) == "inf"
    assert cell([12, 11, 14], whole) == "12" and cell([12, 11, 14], whole, min) == "11"
    assert cell([12, None, 14], whole) == "13 2/3" and cell([12, None, 14], whole, max) == "14 2/3"
    assert cell([30.12, 2302.6], short) == "1166" and share(0.0854) == ".085" and share(1) == "1.000"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.0"), (26, "26.0"), (0.0341, "0.034"), (2302.6, "2303"), (3e12, "3e+12"), (0.001, "1e-03"), (NAN, "nan")],
)
def test_short_numbers(value, text):
    assert float(short(value)) == float(text) or short(value) == text
    assert len(short(value)) <= 5


# The command


PICTURES = ["accuracy.png", "loss.png"]


def pictures(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".png", ".svg"))


def test_pictures_are_where_they_should_be_and_the_same_every_time(tmp_path, capsys):
    folder = tmp_path / "résultats 结果 of mine"
    make(folder, "alexnet2", [2300.0, 30.0, NAN], nan_weights=3, gap=[0.5, 80.0, 88.0])
    make(folder, "alexnet2-seed1", [2300.0, 30.0, 20.0])
    names = [f"{name}.{kind}" for name in ("accuracy", "gap", "loss") for kind in ("png", "svg")]
    main([str(folder), "--svg"])
    assert pictures(folder) == names
    assert f"wrote {folder / 'loss.png'}" in capsys.readouterr().out
    other = tmp_path / "new" / "er"
    main([str(folder / "alexnet2.csv"), str(folder), "--svg", "--output-dir", str(other)])
    assert (other / "gap.svg").read_bytes() == (folder / "gap.svg").read_bytes()
    main([str(folder), "--svg", "--output-dir", str(other)])
    assert all((other / name).read_bytes() == (folder / name).read_bytes() for name in names)
    main([str(folder), "--output-dir", str(tmp_path / "plain")])
    assert pictures(tmp_path / "plain") == ["accuracy.png", "gap.png", "loss.png"]


def test_the_pictures_of_results_change_only_with_results(tmp_path, monkeypatch, capsys):
    results, here = tmp_path / "results", tmp_path / "here"
    monkeypatch.setattr(plot_results, "RESULTS", results)
    path = make(results, "alexnet4", [170.0, 90.0])
    main([])
    assert pictures(results) == PICTURES
    (results / "loss.png").write_text("as it was")
    here.mkdir()
    monkeypatch.chdir(here)
    main([str(path)])
    assert pictures(here) == PICTURES
    main([str(make(results / "short", "alexnet4-epochs1", [170.0]).parent)])
    assert pictures(results / "short") == PICTURES and (results / "loss.png").read_text() == "as it was"
    monkeypatch.chdir(results)
    with pytest.raises(UserError, match="name an --output-dir"):
        main(["alexnet4.csv"])
    assert (results / "loss.png").read_text() == "as it was"
    main(["."])
    assert (results / "loss.png").read_bytes().startswith(b"\x89PNG")


def drawn(folder, monkeypatch, *arguments):
    """The labels of accuracy.png and of gap.png, if there is one, as main draws them."""
    seen = {}
    monkeypatch.setattr(plot_results, "save", lambda figure, path: seen.update({path.stem: legend_texts(figure)}))
    main([*map(str, arguments), "--output-dir", str(folder)])
    return seen["accuracy"], seen.get("gap")


def test_seven_curves_are_what_a_reader_sees(tmp_path, monkeypatch, capsys):
    for number in ARTICLE:
        make(tmp_path, f"alexnet{number}-mixed", drop(3), gap=[9.0] * 10)
    make(tmp_path, "alexnet2-fused-mixed", drop(3), gap=[9.0] * 10)
    make(tmp_path, "alexnet2-epochs20", drop(3, 20))
    seven = [f"{number} {title(number)}" for number in ARTICLE]
    notes = ["hollow: the article's figures", "in mixed precision: all"]
    accuracy, gap = drawn(tmp_path, monkeypatch, tmp_path)
    assert accuracy == seven + notes and gap == [*seven[:2], "2 fused", *seven[2:], notes[1]]
    assert "2 epochs20" in capsys.readouterr().out
    accuracy, gap = drawn(tmp_path, monkeypatch, tmp_path, "--all", "--no-article")
    assert accuracy[:4] == [*seven[:2], "2 epochs20", "2 fused"] and notes[0] not in accuracy
    accuracy, gap = drawn(tmp_path, monkeypatch, tmp_path / "alexnet2-epochs20.csv")
    assert accuracy == ["2 epochs20", notes[0]] and gap is None
    accuracy, _ = drawn(tmp_path, monkeypatch, tmp_path, tmp_path / "alexnet2-epochs20.csv")
    assert len(accuracy) == 7 + 1 + 2


def test_an_experiment_without_a_run_has_the_articles_points(tmp_path, monkeypatch, capsys):
    make(tmp_path, "alexnet1", [NAN] * 50, nan_weights=1)
    accuracy, _ = drawn(tmp_path, monkeypatch, tmp_path)
    assert [label for label in accuracy if "(the article)" in label] == [
        f"{n} {title(n)} (the article)" for n in range(2, 7)
    ]


def test_markdown_prints_the_table_and_draws_nothing(tmp_path, capsys):
    make(tmp_path, "alexnet2", drop(3))
    main([str(tmp_path), "--markdown", "--details"])
    groups, out = load_groups([tmp_path]), capsys.readouterr().out
    tables = [comparison(groups, ARTICLE, markdown=True), COMPARED, "", details(groups, markdown=True), DETAILED]
    assert out == "\n\n".join(tables) + "\n" and "\n| 6 the article |" in out and pictures(tmp_path) == []


def bad_content(text):
    return lambda folder: (folder / "alexnet2.csv").write_text(text) and folder


def bad_name(folder):
    return make(folder, "alexnet2 (copy)", [1.0])


def bad_record(text):
    def write(folder):
        make(folder, "alexnet2", [1.0])
        (folder / "alexnet2.json").write_text(text)
        return folder

    return write


def same_name_twice(folder):
    make(folder / "a", "alexnet2", [1.0])
    return make(folder / "b", "alexnet2", [2.0]), folder / "a"


HEADER = "epoch,loss,accuracy,train_loss,train_accuracy,seconds\n"
BAD = {
    "empty": (lambda folder: (folder / "alexnet2.csv").touch() or folder, "line 1: the columns do not begin"),
    "header only": (bad_content(HEADER), "no rows"),
    "cut": (bad_content(HEADER + "1,2300.0,0.1,460.0,0.1,9"), "cut off in the middle"),
    "short row": (bad_content(HEADER + "1,2300.0,0.1\n"), "3 fields instead of 6"),
    "text": (bad_content("epoch,loss,accuracy\n1,many,0.1\n"), "'many'"),
    "epoch missing": (bad_content("epoch,loss,accuracy\n1,2,0.1\n3,2,0.1\n"), "line 3: epoch '3' where 2 should"),
    "epoch twice": (bad_content("epoch,loss,accuracy\n1,2,0.1\n1,2,0.1\n"), "line 3: epoch '1' where 2 should"),
    "accuracy in %": (bad_content("epoch,loss,accuracy\n1,2,98.8\n"), "accuracy outside 0 to 1"),
    "no CSV": (lambda folder: folder, "no run's CSV here"),
    "no path": (lambda folder: folder / "nowhere", "no such file or folder"),
    "long path": (lambda folder: folder / ("x" * 300), "name"),
    "name": (bad_name, "alexnet2 (copy).csv: not a run's name"),
    "folder as CSV": (lambda folder: (folder / "alexnet2.csv").mkdir() or folder, "name a CSV that a run has written"),
    "same name": (same_name_twice, "has the same name"),
    "no JSON": (bad_record("{"), "alexnet2.json: "),
    "record of numbers": (bad_record('{"complete": true, "nan_weights": 5}'), "not a run's record"),
    "record without flags": (bad_record('{"complete": false, "nan_weights": null}'), "not a run's record"),
    "endless record": (bad_record('{"complete": true, "nan_weights": {"epoch": Infinity}}'), "not a run's record"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_line(tmp_path, kind):
    prepare, message = BAD[kind]
    paths = prepare(tmp_path)
    with pytest.raises(UserError) as error:
        main([str(path) for path in (paths if isinstance(paths, tuple) else [paths])])
    assert message in str(error.value) and "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value) and "; " in str(error.value)


def test_output_folder_that_is_a_file(tmp_path, capsys):
    path = make(tmp_path, "alexnet2", drop(3))
    with pytest.raises(UserError, match="name another --output-dir"):
        main([str(tmp_path), "--output-dir", str(path)])
    (tmp_path / "loss.png").mkdir()
    with pytest.raises(UserError, match="loss.png: Is a directory; name another --output-dir"):
        main([str(tmp_path)])


def test_show_without_a_display(tmp_path, monkeypatch):
    make(tmp_path, "alexnet2", drop(3))
    monkeypatch.setattr(matplotlib, "get_backend", lambda: "agg")
    with pytest.raises(UserError, match="--show: there is no display"):
        main([str(tmp_path), "--show"])


def run_script(*arguments):
    done = subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    return done


def test_script_succeeds_quietly(tmp_path):
    folder = tmp_path / "è 空"
    make(folder, "alexnet2", drop(3))
    done = run_script(folder)
    assert (done.returncode, done.stderr) == (0, "") and "2 ours" in done.stdout
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["cut", "no path"])
def test_script_fails_with_one_line_and_code_2(tmp_path, kind):
    prepare, message = BAD[kind]
    done = run_script(prepare(tmp_path))
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("plot_results.py: error: ") and message in done.stderr


def test_unknown_flag_is_one_line():
    done = run_script("--colour")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--colour" in done.stderr


def test_tensorflow_stays_out():
    code = "import sys, plot_results; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, timeout=120).returncode == 0


def test_standard_output_that_has_gone_costs_no_picture(tmp_path):
    make(tmp_path / "closed", "alexnet2", drop(3))
    shutil.copytree(tmp_path / "closed", tmp_path / "broken")
    for folder, command in {"closed": '"$@" >&-', "broken": '"$@" | true'}.items():
        shell = ["bash", "-c", f"set -o pipefail; {command}", "bash", sys.executable, SCRIPT, tmp_path / folder]
        done = subprocess.run(shell, capture_output=True, text=True, timeout=120)
        assert done.stderr == "" and done.returncode == {"closed": 0, "broken": 141}[folder]
        assert pictures(tmp_path / folder) == PICTURES


def test_files_come_before_the_report(tmp_path, monkeypatch):
    make(tmp_path, "alexnet2", drop(3))

    def gone(*_, **__):
        assert pictures(tmp_path) == PICTURES
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", gone)
    with pytest.raises(BrokenPipeError):
        main([str(tmp_path)])


# An eighth experiment, as the README says


@pytest.mark.slow
def test_an_eighth_experiment(tmp_path):
    shutil.copytree(SCRIPT.parent / "common", tmp_path / "common", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("plot_results.py", "tests/conftest.py", "tests/test_networks.py", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(SCRIPT.parent / name, tmp_path / name)
    for script in SCRIPT.parent.glob("alexnet[1-7].py"):
        shutil.copy(script, tmp_path)
    text = (tmp_path / "alexnet2.py").read_text("utf-8").replace("stddev=0.01)", "stddev=0.02)")
    text = text.replace("experiment 2: initial values with a small standard deviation.", "experiment 8: stddev 0.02.")
    (tmp_path / "alexnet8.py").write_text(text, "utf-8")
    fixture = tmp_path / "tests" / "conftest.py"
    fixture.write_text(fixture.read_text("utf-8").replace("range(1, 8)", "range(1, 9)"), "utf-8")

    def python(*arguments):
        done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "is complete" in python("alexnet8.py", *SMALL, "--no-weights")
    out = python("plot_results.py")
    assert "8 train16 test20" in out and pictures(tmp_path / "results") == [
        "accuracy.png",
        "gap.png",
        "iterations.png",
        "loss.png",
    ]
    print_name = "from common.pictures import name; print(name('alexnet8', {}))"
    assert python("-c", print_name) == "8 stddev 0.02\n"
    checks = ["tests/test_networks.py", "-k", "alexnet8 and (shape or gradient or dropout)"]
    assert "4 passed" in python("-m", "pytest", "-q", "-p", "no:cacheprovider", *checks)


# read_csv


def equal(first, second):
    """Whether two lists of Row are equal, NaN to NaN."""
    return repr(first) == repr(second)


def test_rows_come_back(tmp_path):
    rows = [Row(1, 2299.4792, 0.122, 460.123456789, 0.1, 97.25), Row(2, NAN, 0.99, INF, 0.5, 1e-7), Row(3, -INF, 0.0)]
    write_csv(tmp_path / "alexnet2.csv", rows)
    assert equal(read_csv(tmp_path / "alexnet2.csv"), rows)


numbers = st.floats() | st.none()
values = st.tuples(st.floats(), st.floats(0, 1), numbers, numbers, numbers)


@given(st.lists(values, min_size=1, max_size=9))
def test_any_rows_come_back(tmp_path_factory, curve):
    rows = [Row(epoch, *value) for epoch, value in enumerate(curve, start=1)]
    path = tmp_path_factory.getbasetemp() / "rows.csv"
    write_csv(path, rows)
    assert equal(read_csv(path), rows)


fields = st.sampled_from(["1", "0.5", "nan", "-inf", "", " 1", "1_0", "\uff11", "1e999", "x", "\x0b", "\u2028", "\r"])
header = st.sampled_from([HEADER, "epoch,loss,accuracy\n", "epoch,loss,accuracy,epoch\n", "epoch,loss,accuracy,\n"])
nearly = st.builds(
    lambda head, rows, end: (head + "".join(f"{i},{','.join(row)}\n" for i, row in enumerate(rows, 1)) + end).encode(),
    header,
    st.lists(st.lists(fields, min_size=2, max_size=5), max_size=4),
    st.sampled_from(["", "", "\r\n", "\n", "\r", "3"]),
)


@settings(max_examples=400)
@given(st.binary(max_size=200) | st.binary(max_size=80).map(HEADER.encode().__add__) | nearly)
def test_any_bytes_are_rows_or_a_user_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content)
    try:
        rows = read_csv(path)
    except UserError as error:
        assert str(error).startswith(str(path)) and len(str(error).splitlines()) == 1
        return
    assert [row.epoch for row in rows] == list(range(1, len(rows) + 1)) and rows
    assert all(0 <= row.accuracy <= 1 and isinstance(row.loss, float) for row in rows)
    write_csv(path, rows)
    assert equal(read_csv(path), rows)


def test_a_csv_saved_by_excel_is_read(tmp_path):
    path = make(tmp_path, "alexnet2", drop(3))
    rows = read_csv(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_csv(path) == rows


def test_a_notebook_s_backend_is_no_hindrance(tmp_path):
    """Cells pass on MPLBACKEND, for a module that the script's environment may lack, and %run a stdout of their own."""
    make(tmp_path, "alexnet2", drop(3))
    environment = {**os.environ, "MPLBACKEND": "module://no_such.backend"}
    code = "import runpy, sys; from types import SimpleNamespace; out = sys.stdout; sys.argv.pop(0); "
    code += "sys.stdout = SimpleNamespace(write=out.write, flush=out.flush); "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    for command in [str(SCRIPT), str(tmp_path)], ["-c", code, str(SCRIPT), str(tmp_path)]:
        done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert "wrote" in done.stdout
    done = subprocess.run(
        [sys.executable, "-c", "import common, matplotlib.figure"], env=environment, cwd=SCRIPT.parent, text=True
    )
    assert done.returncode == 0
