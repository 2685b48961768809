"""common/plots/pictures.py: the lines, marks, axes and legends of the four pictures."""

import math

from common.plots.curves import TITLES, article, comparable_figures, load_groups, most_complete, title
from common.plots.pictures import (
    GREY,
    base_style,
    draw_epochs,
    draw_gap,
    draw_iterations,
    epoch_axis,
    fingerprint,
    marker_indices,
    styled,
)
from common.plots.tables import comparison, details
import matplotlib
import matplotlib.pyplot as plt
from matplotlib.text import Text
from plot_helpers import INF, NAN, make_run, make_trace, plateau
import pytest

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def draw(folder, field="loss", points=None):
    """The figure of all runs in a folder."""
    return draw_epochs(load_groups([folder]), field, points or {})


def lines(axes):
    """{label: line} of the curves, without crosses and the article's markers."""
    found = {line.get_label(): line for line in axes.get_lines() if line.get_linestyle() != "None"}
    return {label: line for label, line in found.items() if not label.startswith("_")}


def crosses(axes):
    """The positions of the crosses in a plot."""
    return sorted((line.get_xdata()[0], line.get_ydata()[0]) for line in axes.get_lines() if line.get_marker() == "x")


def bars(axes):
    """{lane: {epoch: height}} of the strip's bars of non-zero height."""
    lanes = {}
    for patch in axes.patches:
        tops, edges, floor = patch.get_data()
        for top, left in zip(tops, edges):
            if top < floor:
                lanes.setdefault(round(float(floor)), {})[round(left + 0.5)] = round((floor - top) / 0.7, 3)
    return lanes


def hollow(axes):
    """{(colour, epochs)} of the article's markers."""
    found = [line for line in axes.get_lines() if line.get_markerfacecolor() == "none" and len(line.get_xdata())]
    return {(line.get_color(), tuple(line.get_xdata())) for line in found}


def texts(axes):
    return [text.get_text() for text in axes.texts]


def texts_overlap(axes):
    """Whether any two texts in a plot, its title among them, cover each other."""
    axes.figure.canvas.draw()
    boxes = [child.get_window_extent() for child in axes.get_children() if isinstance(child, Text) and child.get_text()]
    return any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def legend_texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_plateau_and_its_end_are_drawn(tmp_path):
    make_run(tmp_path, "alexnet2", plateau(4))
    (axes,) = draw(tmp_path).axes
    line = lines(axes)["2 stddev 0.01"]
    assert list(line.get_xdata()) == list(range(1, 11)) and list(line.get_ydata()) == plateau(4)
    assert (axes.get_yscale(), axes.get_xlabel()) == ("log", "epoch")
    assert axes.get_ylabel() == "test loss (sum over 1,000 images)"
    low, high = axes.get_ylim()
    assert low < 40 and high > 2303 and crosses(axes) == []
    assert texts(axes) == ["chance: 1,000 ln 10 = 2,302.6", "2"]  # the name is where the line ends
    assert list(axes.get_xticks()) == list(range(1, 11))
    (axes,) = draw(tmp_path, "accuracy").axes
    assert list(lines(axes)["2 stddev 0.01"].get_ydata()) == [0.1] * 3 + [0.95] * 7


@pytest.mark.parametrize("best", [0.991, 1.0])
def test_accuracies_near_1_are_spread_out(tmp_path, best):
    make_run(tmp_path, "alexnet2", [30.0] * 50, [0.085] + [0.987] * 49)
    make_run(tmp_path, "alexnet6", [30.0] * 50, [0.987] + [best] * 49)
    (axes,) = draw(tmp_path, "accuracy").axes
    points = axes.transData.transform([(1, accuracy) for accuracy in (0.085, 0.987, best)])
    nan, worse, better = axes.transAxes.inverted().transform(points)[:, 1]
    assert 0 < nan < 0.1 and worse + 0.05 < better < 1
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert {"0", "0.9", "0.98"} <= set(labels) and list(axes.get_xticks()) == [1, *range(5, 51, 5)]


@pytest.mark.parametrize("epochs", [12, 600, 1201, 10_000, 100_000])
def test_any_number_of_epochs_has_a_few_ticks(epochs):
    axes = plt.subplots()[1]
    epoch_axis(axes, epochs)
    first, *ticks = axes.get_xticks()
    assert first == 1 and 4 <= len(ticks) <= 12 and ticks[-1] <= epochs


def test_coinciding_lines_alternate_in_colour(tmp_path):
    for number, losses in {2: plateau(6), 3: plateau(5), 4: [50.0] * 10, 5: plateau(9)}.items():
        make_run(tmp_path, f"alexnet{number}", losses)
    (axes,) = draw(tmp_path).axes
    patterns = {line.get_color(): line._unscaled_dash_pattern for line in axes.get_lines() if line.is_dashed()}
    dashed = [patterns[base_style(number)["color"]] for number in (2, 3, 4, 5)]
    assert dashed == [(0, (5, 10)), (5, (5, 10)), (0, (5, 10)), (10, (5, 10))]
    make_run(tmp_path / "apart", "alexnet2", plateau(6))
    make_run(tmp_path / "apart", "alexnet4", [50.0] * 10)
    (axes,) = draw(tmp_path / "apart").axes
    assert not any(line.is_dashed() for line in axes.get_lines())


def test_all_experiments_have_their_colour_label_and_marker(tmp_path):
    for number in TITLES:
        make_run(tmp_path, f"alexnet{number}", [100.0] * 3)
    drawn = lines(draw(tmp_path, "accuracy").axes[0])
    assert list(drawn) == [f"{number} {title(number)}" for number in TITLES]
    styles = [(line.get_color(), line.get_marker()) for line in drawn.values()]
    assert styles == [tuple(base_style(number).values()) for number in TITLES]
    assert [len(set(column)) for column in zip(*styles)] == [7, 7]
    assert len({tuple(base_style(number).values()) for number in range(1, 50)}) == 49


def test_a_long_strip_is_one_patch(tmp_path):
    """A bar an epoch took 44 seconds for 10,000."""
    make_run(tmp_path, "alexnet2-epochs2000", [30.0, NAN] * 1000)
    strip, _ = draw(tmp_path).axes
    assert len(strip.patches) == 1 and bars(strip) == {0: dict.fromkeys(range(2, 2001, 2), 1)}


def test_a_late_nan_shows_on_curve_and_strip(tmp_path):
    make_run(tmp_path, "alexnet2", [2300.0, 30.0, NAN, NAN], nan_weights=3)
    make_run(tmp_path, "alexnet2-fused", [2300.0, NAN, NAN, NAN], nan_weights=2)
    figure = draw(tmp_path)
    strip, axes = figure.axes
    assert crosses(axes) == [(1, 2300.0), (2, 30.0)] and crosses(strip) == []
    assert [tick.get_text() for tick in strip.get_yticklabels()] == ["NaN in 2", "NaN in 2 fused"]
    assert bars(strip) == {0: {3: 1, 4: 1}, 1: {2: 1, 3: 1, 4: 1}}
    assert "the last loss before NaN" in legend_texts(figure)
    figure = draw(tmp_path, "accuracy")
    assert crosses(figure.axes[0]) == [(2, 0.085), (3, 0.085)] and "the weights turn NaN" in legend_texts(figure)


def test_a_nan_from_the_first_epoch_shows(tmp_path):
    for number in (1, 7):
        make_run(tmp_path, f"alexnet{number}", [NAN] * 5, nan_weights=1)
    figure = draw(tmp_path)
    strip, axes = figure.axes
    assert {lane: len(epochs) for lane, epochs in bars(strip).items()} == {0: 5, 1: 5} and crosses(axes) == []
    assert [tick.get_text() for tick in strip.get_yticklabels()] == ["NaN in 1", "NaN in 7"]
    assert legend_texts(figure)[:2] == [f"1 {title(1)}: NaN", f"7 {title(7)}: NaN"]
    assert all(math.isfinite(limit) for limit in axes.get_ylim())


def test_a_nan_loss_with_finite_weights_leaves_a_gap_and_the_accuracy(tmp_path):
    make_run(tmp_path, "alexnet5", [100.0, NAN, 50.0, NAN, 40.0, INF], [0.95] * 6)
    strip, axes = draw(tmp_path).axes
    line = lines(axes)[f"5 {title(5)}"]
    assert [math.isnan(y) for y in line.get_ydata()] == [False, True, False, True, False, True]
    assert {0, 2, 4} <= set(line.get_markevery())
    assert [tick.get_text() for tick in strip.get_yticklabels()] == ["NaN, inf in 5"]
    assert list(bars(strip)[0]) == [2, 4, 6]
    assert crosses(draw(tmp_path, "accuracy").axes[0]) == []


def test_seeds_become_a_median_and_a_band(tmp_path):
    for seed, epoch in enumerate((4, 6, 5)):
        make_run(tmp_path, f"alexnet3-seed{seed}", plateau(epoch))
    figure = draw(tmp_path)
    (axes,) = figure.axes
    assert list(lines(axes)["3 step learning-rate decay (3 seeds)"].get_ydata()) == plateau(5)
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (40, 2300)
    assert "median of the seeds, band: their range" in legend_texts(figure)


def test_some_nan_seeds_are_a_share_on_the_strip_and_one_cross(tmp_path):
    for seed, losses in enumerate(([9.0, 10.0, NAN, NAN], [9.0, 20.0, NAN, NAN], [9.0, 30.0, 30.0, NAN], [9.0] * 4)):
        make_run(tmp_path, f"alexnet2-seed{seed}", losses, nan_weights=4 - (seed < 2) if seed < 3 else None)
    figure = draw(tmp_path)
    strip, axes = figure.axes
    assert crosses(axes) == [(3, 19.5)] and bars(strip) == {0: {3: 0.5, 4: 0.75}}
    assert "share of the seeds that are NaN" in legend_texts(figure)
    assert [epoch for epoch, _ in crosses(draw(tmp_path, "accuracy").axes[0])] == [3]


def test_many_seeds_add_one_cross_and_few_lines(tmp_path):
    for seed in range(40):
        losses = [NAN if epoch >= 5 + seed % 9 else loss for epoch, loss in enumerate(plateau(3, 20), start=1)]
        make_run(tmp_path, f"alexnet2-seed{seed}", losses, nan_weights=5 + seed % 9)
    for field in ("loss", "accuracy"):
        *_, axes = draw(tmp_path, field).axes
        assert len(crosses(axes)) == 1 and len(axes.get_lines()) <= 3


def test_variants_are_dashed_and_named(tmp_path):
    for name in ("alexnet2", "alexnet2-fused", "alexnet2-batch50"):
        make_run(tmp_path, name, plateau(4))
    drawn = lines(draw(tmp_path, "accuracy").axes[0])
    assert list(drawn) == ["2 stddev 0.01", "2 batch50", "2 fused"]
    assert [line.is_dashed() for line in drawn.values()] == [False, True, True]
    assert len({str(line._unscaled_dash_pattern) for line in drawn.values()}) == 3
    assert len({line.get_color() for line in drawn.values()}) == 1


def test_mixed_precision_runs_count_and_are_named_once(tmp_path):
    for name in ("alexnet1", "alexnet2-mixed", "alexnet2-mixed-seed1", "alexnet6-mixed", "alexnet7-fused-mixed"):
        make_run(tmp_path, name, plateau(4))
    groups = load_groups([tmp_path])
    figure = draw_epochs(groups, "loss", {})
    drawn = lines(figure.axes[0])
    assert list(drawn)[1:] == ["2 stddev 0.01 (2 seeds)", "6 batch norm", "7 fused"]
    assert [line.is_dashed() for line in drawn.values()] == [False, False, False, True]
    assert "in mixed precision: 2, 6, 7 fused" in legend_texts(figure)
    assert "in mixed precision: all" in legend_texts(draw_epochs(most_complete(groups[1:2]), "loss", {}))
    make_run(tmp_path, "alexnet2", plateau(5))
    float32, mixed = styled(load_groups([tmp_path]))[1:3]
    assert (float32.label, mixed.label) == ("2 stddev 0.01", "2 mixed (2 seeds)") and mixed.style["linestyle"] != "-"


def test_other_test_sizes_change_axis_label_and_chance(tmp_path):
    make_run(tmp_path, "alexnet6-train2000-test500-epochs2", [600.0, 100.0])
    (axes,) = draw(tmp_path).axes
    assert axes.get_ylabel() == "test loss (sum over 500 images)"
    assert texts(axes)[:1] == ["chance: 500 ln 10 = 1,151.3"]
    assert "each run's" in draw(tmp_path, points={6: article()[6]}).axes[0].get_ylabel()
    make_run(tmp_path, "alexnet6-test10", [20.0])
    (axes,) = draw(tmp_path).axes
    assert axes.get_ylabel() == "test loss (sum over each run's test images)"
    assert not any("chance" in text for text in texts(axes))


def test_a_single_epoch_has_a_marker_and_room(tmp_path):
    make_run(tmp_path, "alexnet4", [170.0])
    for field in ("loss", "accuracy"):
        (axes,) = draw(tmp_path, field).axes
        assert lines(axes)["4 get_variable"].get_markevery() == [0]
        assert axes.get_xlim() == (0.5, 1.5) and axes.get_ylim()[0] < axes.get_ylim()[1]


@pytest.mark.parametrize("length", [1, 2, 7, 8, 15, 50, 69, 1000])
@pytest.mark.parametrize("number", range(1, 8))
def test_every_curve_has_markers(length, number):
    indices = marker_indices([1.0] * length, number)
    assert indices and indices[0] < max(1, length // 8) and indices[-1] < length and len(indices) <= 16


def test_unfinished_runs_say_so(tmp_path):
    make_run(tmp_path, "alexnet2-mixed", plateau(3, 4), epochs=50)
    make_run(tmp_path, "alexnet3", plateau(3, 10))
    make_run(tmp_path, "alexnet3-seed1", plateau(3, 2), epochs=50)
    labels = ["2 stddev 0.01 (epoch 4 of 50)", "3 step learning-rate decay (2 seeds, 1 unfinished)"]
    assert legend_texts(draw(tmp_path))[:2] == labels
    assert "median of the seeds, band: their range" not in legend_texts(draw(tmp_path))


def test_unfinished_seeds_are_only_in_the_band(tmp_path):
    make_run(tmp_path, "alexnet2", [*plateau(3, 9), NAN], nan_weights=10)
    make_trace(tmp_path, "alexnet2", 3000, 50.0, nan=True)
    for seed in (1, 2):
        make_run(tmp_path, f"alexnet2-seed{seed}", plateau(2, 4), epochs=10)
        make_trace(tmp_path, f"alexnet2-seed{seed}", 1200, 20.0)
    note = "seeds that ended earlier: only in the band"
    accuracy = draw(tmp_path, "accuracy")
    assert crosses(accuracy.axes[0]) == [(10, 0.085)] and note in legend_texts(accuracy)
    assert list(lines(accuracy.axes[0])["2 stddev 0.01 (3 seeds, 2 unfinished)"].get_ydata())[:3] == [0.1, 0.1, 0.95]
    figure = draw_iterations(load_groups([tmp_path]))
    line = lines(figure.axes[0])["2 stddev 0.01 (3 seeds, 2 unfinished)"]
    assert min(line.get_ydata()) >= 50 and crosses(figure.axes[0]) == [(3000, 88.0)] and note in legend_texts(figure)


@pytest.mark.parametrize("losses", [[0.0], [1e30, 5.0], [-1.0, 0.0], [INF], [-INF, 2.0]])
def test_odd_losses_draw(tmp_path, losses):
    make_run(tmp_path, "alexnet1-fused", losses, [0.1] * len(losses), gap=losses)
    groups = load_groups([tmp_path])
    for figure in (draw(tmp_path), draw(tmp_path, "accuracy"), draw_gap(groups)):
        figure.canvas.draw()
    assert comparison(groups) and details(groups)


def test_the_article_s_figures_are_hollow_markers(tmp_path):
    for number in (1, 2, 7):
        make_run(tmp_path, f"alexnet{number}", [NAN] * 3 if number != 2 else plateau(2, 3), epochs=50)
    make_run(tmp_path, "alexnet6-epochs1", [40.0])
    groups = load_groups([tmp_path])
    points = comparable_figures(groups)
    figure = draw(tmp_path, points=points)
    strip, axes = figure.axes
    assert (base_style(2)["color"], tuple(article()[2])) in hollow(axes) and len(hollow(axes)) == 3
    nan_epochs = {1: (1, 2, 3, 4), 2: (47, 48, 49, 50)}
    assert hollow(strip) == {(base_style(number)["color"], epochs) for number, epochs in nan_epochs.items()}
    assert axes.get_xlim()[1] > 50 and "hollow: the article's figures" in legend_texts(figure)
    assert len(hollow(draw(tmp_path, "accuracy", points).axes[0])) == 3
    figure = draw(tmp_path, points=comparable_figures(groups, article()))
    assert "3 step learning-rate decay (the article)" in legend_texts(figure)


def test_traces_become_a_picture(tmp_path):
    make_run(tmp_path, "alexnet7", [NAN], nan_weights=1)
    assert draw_iterations(load_groups([tmp_path])) is None
    for name in ("alexnet2", "alexnet3", "alexnet7-fused", "alexnet7-fused-seed1"):
        make_run(tmp_path, name, [2300.0])
        make_trace(tmp_path, name, 3000, 50.0, nan=name == "alexnet2")
    figure = draw_iterations(load_groups([tmp_path]))
    above, below = figure.axes
    labels = ["2 stddev 0.01", f"3 {title(3)}", "7 fused (2 seeds)"]
    assert above.get_yscale() == "log" and list(lines(above)) == labels
    line, rising = lines(above)["2 stddev 0.01"], lines(below)["2 stddev 0.01"]
    assert line.get_xdata()[0] == 1 and len(line.get_xdata()) < 150 and line.get_xdata()[-1] > 2900
    assert list(line.get_ydata()[:2]) == [51.0, 50.0]  # single iterations, medians later
    assert line.get_ydata()[-1] == pytest.approx(50.5, abs=0.5)
    assert rising.get_ydata()[-1] == pytest.approx(0.1 + 0.9 * rising.get_xdata()[-1] / 3000, abs=0.01)
    assert crosses(above) == [(3000, 88.0)]
    notes = ["the loss turns NaN", "median of the batches, band: their range"]
    assert legend_texts(figure)[3:] == [*notes, "alternating colours: lines that coincide"]
    assert {"beyond 87 a softmax entry is 0: the naive loss is NaN", "2", "7 fused"} <= set(texts(above))
    assert not texts_overlap(above) and all(0 <= text.xy[1] <= 1 for text in below.texts)


def test_the_gap_against_87(tmp_path):
    make_run(tmp_path, "alexnet1", [NAN] * 4, nan_weights=1, gap=[4e12, None, None, None])
    make_run(tmp_path, "alexnet1-fused", [NAN] * 4, nan_weights=1, gap=[NAN, None, None, None])
    make_run(tmp_path, "alexnet2", [40.0, 30.0, NAN, NAN], nan_weights=3, gap=[60.0, 70.0, 300.0, None])
    make_run(tmp_path, "alexnet3", plateau(2, 4), gap=[0.5, 20.0, 30.0, 40.0])
    make_run(tmp_path, "alexnet4", plateau(2, 4))
    figure = draw_gap(load_groups([tmp_path]))
    (axes,) = figure.axes
    assert list(lines(axes)["2 stddev 0.01"].get_ydata())[:3] == [60.0, 70.0, 300.0]
    assert crosses(axes) == [(3, 300.0)] and axes.get_ylim()[0] < 0.5 and 200 < axes.get_ylim()[1] < 10_000
    assert {"\u2191 1: $4 \\cdot 10^{12}$", "\u2191 1 fused: not finite", "3"} <= set(texts(axes))
    assert not texts_overlap(axes)
    assert "4 get_variable" not in legend_texts(figure)  # its CSV has no gaps
    make_run(tmp_path / "old", "alexnet4", plateau(2, 4))
    assert draw_gap(load_groups([tmp_path / "old"])) is None


def test_a_nan_in_the_last_epoch_is_crossed(tmp_path):
    make_run(tmp_path, "alexnet2", [40.0, NAN], nan_weights=2, gap=[60.0, 90.0])
    (axes,) = draw_gap(load_groups([tmp_path])).axes
    assert crosses(axes) == [(2, 90.0)]


def test_equal_seeds_have_no_band_and_no_note_on_one(tmp_path):
    for seed in (1, 2):
        make_run(tmp_path, f"alexnet3-seed{seed}", plateau(4))
    figure = draw(tmp_path)
    assert not figure.axes[0].collections and legend_texts(figure) == [f"3 {title(3)} (2 seeds)"]


def test_shortened_runs_are_described_in_words(tmp_path):
    make_run(tmp_path, "alexnet3-train2000-epochs1", [40.0])
    make_run(tmp_path, "alexnet7-fused-test500-epochs3", plateau(2, 3))
    labels = [f"3 {title(3)} (2,000 images, 1 epoch)", "7 fused (500 test images, 3 epochs)"]
    assert legend_texts(draw(tmp_path)) == labels


def test_lines_that_end_together_share_a_row_and_moved_names_have_a_leader(tmp_path):
    for number, low in {1: 40.0, 2: 40.0, 3: 44.0}.items():
        make_run(tmp_path, f"alexnet{number}", plateau(5, low=low))
    (axes,) = draw(tmp_path).axes
    one, two, three = (next(text for text in axes.texts if text.get_text() == str(n)) for n in (1, 2, 3))
    assert one.xyann[1] == two.xyann[1] < three.xyann[1] - 0.04 and one.xyann[0] < two.xyann[0]
    assert one.arrow_patch and three.arrow_patch and not two.arrow_patch  # a row has one leader
    assert "alternating colours: lines that coincide" in legend_texts(axes.figure)


def test_a_name_inside_the_axes_covers_no_line(tmp_path):
    make_run(tmp_path, "alexnet2", [30.0] * 20)
    make_run(tmp_path, "alexnet4", [30.0] * 10)
    (axes,) = draw(tmp_path).axes
    name = next(text for text in axes.texts if text.get_text() == "4")
    assert abs(name.xyann[1] - name.xy[1]) >= 0.04  # beside its end lies the other line


def test_coinciding_figures_of_the_article_are_one_marker_with_their_numbers(tmp_path):
    make_run(tmp_path, "alexnet4", [170.0, 87.0] + [30.0] * 48)
    for field, crowd, count in ("accuracy", "1 2 3 5", 4), ("loss", "2 3 5", 3):
        *_, axes = draw(tmp_path, field, article()).axes
        assert texts(axes).count(crowd) == 2 and len(crowd.split()) == count
        assert sorted(epochs for colour, epochs in hollow(axes) if colour == GREY) == [(1,), (2,)]
        assert (base_style(2)["color"], tuple(article()[2])[2:]) in hollow(axes)


def test_an_explosion_is_an_arrow_not_an_experiment_s_marker(tmp_path):
    make_run(tmp_path, "alexnet1", [NAN] * 4, nan_weights=1, gap=[4e12, None, None, None])
    make_run(tmp_path, "alexnet3", plateau(2, 4), gap=[0.5, 20.0, 30.0, 40.0])
    figure = draw_gap(load_groups([tmp_path]))
    assert legend_texts(figure)[0] == f"1 {title(1)}: off the scale"
    assert [line.get_marker() for line in figure.axes[0].get_lines()].count("^") == 1  # experiment 3's line


def test_wide_legends_have_one_column(tmp_path):
    name = "alexnet7-fused-data1a2b3c4d-train20000-test500-batch50-epochs10-opencv"
    for seed in (1, 2):
        make_run(tmp_path, f"{name}-seed{seed}", plateau(3))
    make_run(tmp_path, name.replace("7", "6", 1), plateau(3))
    figure = draw(tmp_path, "accuracy")
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width


def test_a_fingerprint_changes_with_what_is_shown(tmp_path):
    make_run(tmp_path, "alexnet2", plateau(4))
    before = fingerprint(draw(tmp_path))
    assert fingerprint(draw(tmp_path)) == before
    make_run(tmp_path, "alexnet2", plateau(4, low=40.1))
    assert fingerprint(draw(tmp_path)) != before
