"""plot_results.py: the groups, the two figures, the table and the error lines; and read_csv on any bytes."""

import math
from pathlib import Path
import subprocess
import sys

from common.cli import UserError
from common.results import Iteration, Row, read_csv, read_record, write_csv, write_record
from hypothesis import given, settings
from hypothesis import strategies as st
import matplotlib
import matplotlib.pyplot as plt
import pytest

import plot_results
from plot_results import ARTICLE, LOOKS, causes, cell, draw, load_groups, main, marked, short, spread, summary

matplotlib.use("Agg")
NAN, INF = math.nan, math.inf
SCRIPT = Path(plot_results.__file__)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def make(folder, name, losses, accuracies=None, record=True, nan_weights=None, epochs=None):
    """Write a run of the given losses, 2 seconds an epoch, as the training loop would, and return its CSV's path."""
    folder.mkdir(parents=True, exist_ok=True)
    accuracies = accuracies or [0.085 if math.isnan(loss) else 0.95 if loss < 300 else 0.1 for loss in losses]
    rows = []
    for epoch, (loss, accuracy) in enumerate(zip(losses, accuracies), start=1):
        trained = nan_weights is None or epoch < nan_weights
        rows.append(Row(epoch, loss, accuracy, loss / 5, accuracy, 2.0) if trained else Row(epoch, loss, accuracy))
    write_csv(folder / f"{name}.csv", rows)
    if record:
        facts = {"complete": epochs is None, "arguments": {"epochs": epochs or len(losses)}}
        facts["nan_weights"] = nan_weights and {"epoch": nan_weights, "iteration": 7}
        write_record(folder / f"{name}.json", {"experiment": name[:8], **facts})
    return folder / f"{name}.csv"


def drop(epoch, length=10, low=40.0):
    """Losses on the plateau until an epoch, then low."""
    return [2300.0 if e < epoch else low for e in range(1, length + 1)]


def curves(axes):
    """{label: line} of the curves, without crosses and the article's markers."""
    return {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}


def crosses(axes):
    """The places of the crosses in a plot."""
    return sorted((line.get_xdata()[0], line.get_ydata()[0]) for line in axes.get_lines() if line.get_marker() == "x")


def legend_texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def table_row(text, name):
    """The cells of the line that begins with name, or of the line below if the name fills its own; without the name."""
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.split()[:1] == [name])
    cells = lines[at].split()[1:]
    return cells if len(cells) > 3 else lines[at + 1].split()


# Groups


def test_groups_by_name_without_seed(tmp_path):
    for name in ("alexnet2", "alexnet2-seed1", "alexnet2-seed12", "alexnet2-fused-seed1", "alexnet7-fused"):
        make(tmp_path, name, [2300.0])
    make(tmp_path, "alexnet6-train2000-test500-epochs2-seed3", [100.0])
    (tmp_path / "trace").mkdir()
    (tmp_path / "trace" / "alexnet2.csv").write_text("iteration,train_loss\n1,2\n")
    (tmp_path / "alexnet2.csv.old1").write_text("moved aside")
    groups = load_groups([tmp_path])
    assert {group: len(runs) for group, runs in groups.items()} == {
        "alexnet2": 3,
        "alexnet2-fused": 1,
        "alexnet6-train2000-test500-epochs2": 1,
        "alexnet7-fused": 1,
    }


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


# Figures


def test_a_plateau_and_its_drop_are_drawn_as_they_are(tmp_path):
    make(tmp_path, "alexnet2", drop(4))
    groups = load_groups([tmp_path])
    (axes,) = draw(groups, "loss").axes
    (line,) = [line for label, line in curves(axes).items() if label == "2 stddev 0.01"]
    assert list(line.get_xdata()) == list(range(1, 11)) and list(line.get_ydata()) == drop(4)
    assert (axes.get_yscale(), axes.get_xlabel()) == ("log", "epoch")
    assert axes.get_ylabel() == "test loss (sum over 1,000 images)"
    low, high = axes.get_ylim()
    assert low < 40 and high > 2303 and crosses(axes) == []
    assert any(text.get_text() == "chance: 1,000 ln 10 = 2,302.6" for text in axes.texts)
    (axes,) = draw(groups, "accuracy").axes
    assert list(curves(axes)["2 stddev 0.01"].get_ydata()) == [0.1] * 3 + [0.95] * 7
    assert (axes.get_yscale(), axes.get_ylabel()) == ("linear", "test accuracy")


def test_all_seven_have_their_colour_label_and_marker(tmp_path):
    for number in LOOKS:
        make(tmp_path, f"alexnet{number}", [100.0] * 3)
    lines = curves(draw(load_groups([tmp_path]), "accuracy").axes[0])
    assert [(label, line.get_marker(), line.get_color()) for label, line in lines.items()] == list(LOOKS.values())
    assert [len(set(column)) for column in zip(*LOOKS.values())] == [7, 7, 7]


def test_a_late_nan_shows_on_curve_and_strip(tmp_path):
    make(tmp_path, "alexnet2", [2300.0, 30.0, NAN, NAN], nan_weights=3)
    figure = draw(load_groups([tmp_path]), "loss")
    strip, axes = figure.axes
    assert crosses(axes) == [(2, 30.0)]
    assert [x for x, _ in crosses(strip)] == [3]
    assert [tick.get_text() for tick in strip.get_yticklabels()] == ["2"] and strip.get_ylabel() == "NaN in"
    assert [math.isnan(y) for y in strip.get_lines()[0].get_ydata()] == [True, True, False, False]
    assert "last loss before NaN" in legend_texts(figure)
    figure = draw(load_groups([tmp_path]), "accuracy")
    assert crosses(figure.axes[0]) == [(3, 0.085)] and "weights turned NaN" in legend_texts(figure)


def test_nan_from_the_first_epoch_is_in_sight(tmp_path):
    make(tmp_path, "alexnet1", [NAN] * 5, nan_weights=1)
    make(tmp_path, "alexnet7", [NAN] * 5, nan_weights=1)
    figure = draw(load_groups([tmp_path]), "loss")
    strip, axes = figure.axes
    assert crosses(strip) == [(1, 0.0), (1, 1.0)] and crosses(axes) == []
    assert [tick.get_text() for tick in strip.get_yticklabels()] == ["1", "7"]
    assert legend_texts(figure)[:2] == [LOOKS[1][0], LOOKS[7][0]]
    assert all(math.isfinite(limit) for limit in axes.get_ylim())


def test_nan_loss_with_finite_weights_leaves_a_gap_and_the_accuracy(tmp_path):
    make(tmp_path, "alexnet5", [100.0, NAN, 50.0, NAN, 40.0, INF], [0.95] * 6)
    groups = load_groups([tmp_path])
    strip, axes = draw(groups, "loss").axes
    (line,) = [line for label, line in curves(axes).items() if label == LOOKS[5][0]]
    assert [math.isnan(y) for y in line.get_ydata()] == [False, True, False, True, False, True]
    assert {0, 2, 4} <= set(line.get_markevery())
    assert strip.get_ylabel() == "NaN, inf in"
    assert crosses(draw(groups, "accuracy").axes[0]) == []
    assert table_row(summary(groups), "alexnet5")[:5] == ["1", "1", "2", "-", "inf"]


def test_seeds_become_a_median_and_a_band(tmp_path):
    for seed, epoch in enumerate((4, 6, 5)):
        make(tmp_path, f"alexnet3-seed{seed}", drop(epoch))
    figure = draw(load_groups([tmp_path]), "loss")
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
    strip, axes = draw(groups, "loss").axes
    assert crosses(axes) == [(2, 10.0), (2, 20.0), (3, 30.0)] and [x for x, _ in crosses(strip)] == [3, 3, 4]
    assert spread(groups["alexnet2"], "accuracy")[1][3] == 0.085


def test_what_is_not_the_protocol_is_dashed_and_named(tmp_path):
    for name in ("alexnet2", "alexnet2-fused", "alexnet2-batch50"):
        make(tmp_path, name, drop(4))
    lines = curves(draw(load_groups([tmp_path]), "accuracy").axes[0])
    assert list(lines) == ["2 stddev 0.01", "alexnet2-batch50", "alexnet2-fused"]
    assert [line.is_dashed() for line in lines.values()] == [False, True, True]
    assert len({str(line._unscaled_dash_pattern) for line in lines.values()}) == 3
    assert len({line.get_color() for line in lines.values()}) == 1


def test_other_test_sizes_change_axis_label_and_chance(tmp_path):
    make(tmp_path, "alexnet6-train2000-test500-epochs2", [600.0, 100.0])
    groups = load_groups([tmp_path])
    (axes,) = draw(groups, "loss").axes
    assert axes.get_ylabel() == "test loss (sum over 500 images)"
    assert [text.get_text() for text in axes.texts] == ["chance: 500 ln 10 = 1,151.3"]
    assert "each run's" in draw(groups, "loss", article=True).axes[0].get_ylabel()
    make(tmp_path, "alexnet6-test10", [20.0])
    (axes,) = draw(load_groups([tmp_path]), "loss").axes
    assert axes.get_ylabel() == "test loss (sum over each run's test images)" and not axes.texts


def test_a_single_epoch_has_a_marker_and_room(tmp_path):
    make(tmp_path, "alexnet4", [170.0])
    for field in ("loss", "accuracy"):
        (axes,) = draw(load_groups([tmp_path]), field).axes
        assert curves(axes)["4 get_variable"].get_markevery() == [0]
        assert axes.get_xlim() == (0.5, 1.5) and axes.get_ylim()[0] < axes.get_ylim()[1]


@pytest.mark.parametrize("length", [1, 2, 7, 8, 15, 50, 69, 1000])
@pytest.mark.parametrize("number", range(1, 8))
def test_every_curve_has_markers(length, number):
    indices = marked([1.0] * length, number)
    assert indices and indices[0] < max(1, length // 8) and indices[-1] < length and len(indices) <= 16


def test_unfinished_runs_say_so(tmp_path):
    make(tmp_path, "alexnet2", drop(3, 4), epochs=50)
    make(tmp_path, "alexnet3", drop(3, 10))
    make(tmp_path, "alexnet3-seed1", drop(3, 2), epochs=50)
    groups = load_groups([tmp_path])
    texts = legend_texts(draw(groups, "loss"))
    assert texts[:2] == ["2 stddev 0.01 (epoch 4 of 50)", "3 step learning-rate decay (2 seeds, 1 unfinished)"]
    assert len(spread(groups["alexnet3"], "loss")[0]) == 10
    assert "alexnet2 (epoch 4 of 50)" in summary(groups) and "alexnet3 (1 unfinished)" in summary(groups)


@pytest.mark.parametrize("losses", [[0.0], [1e30, 5.0], [-1.0, 0.0], [INF], [-INF, 2.0]])
def test_odd_losses_draw(tmp_path, losses):
    make(tmp_path, "alexnet1-fused", losses, [0.1] * len(losses))
    figure = draw(load_groups([tmp_path]), "loss")
    figure.canvas.draw()
    assert summary(load_groups([tmp_path]))


def test_the_articles_points(tmp_path):
    for number in (1, 2, 7):
        make(tmp_path, f"alexnet{number}", [NAN] * 3 if number != 2 else drop(2, 3))
    figure = draw(load_groups([tmp_path]), "loss", article=True)
    strip, axes = figure.axes
    hollow = [line for line in axes.get_lines() if line.get_markerfacecolor() == "none" and len(line.get_xdata())]
    shown = {(line.get_color(), tuple(line.get_xdata())) for line in hollow}
    assert (LOOKS[2][2], tuple(ARTICLE[2])) in shown and len(shown) == 2
    hollow = [line for line in strip.get_lines() if line.get_markerfacecolor() == "none" and len(line.get_xdata())]
    assert [list(line.get_xdata()) for line in hollow] == [[1, 2, 3, 4], [47, 48, 49, 50]]
    assert axes.get_xlim()[1] > 50 and "the article's figures" in legend_texts(figure)


def test_article_holds_what_it_reports():
    assert set(ARTICLE) == set(LOOKS) == set(range(1, 8)) and ARTICLE[7] == {}
    assert list(ARTICLE[1]) == [1, 2, 3, 4]
    assert all(math.isnan(loss) and accuracy == 0.085 for loss, accuracy in ARTICLE[1].values())
    assert ARTICLE[2][12] == (1955.1497, 0.391) and math.isnan(ARTICLE[2][47][0]) and ARTICLE[2][46][1] == 0.99
    assert list(ARTICLE[2]) == [1, 2, 11, 12, 13, 14, 44, 45, 46, 47, 48, 49, 50]
    assert ARTICLE[3][11] == (678.09644, 0.788) and ARTICLE[3][50] == (34.458153, 0.988)
    assert ARTICLE[4] == {1: (170.07048, 0.936), 2: (86.70665, 0.972), 50: (26.004112, 0.99)}
    assert ARTICLE[5][21] == (2114.1978, 0.301) and ARTICLE[5][22] == (366.07996, 0.872)
    assert ARTICLE[6][50] == (10.757448, 0.991)


# Table


def test_table_of_single_runs(tmp_path):
    make(tmp_path, "alexnet1", [NAN] * 3, nan_weights=1)
    make(tmp_path, "alexnet2", [2300.0, 40.0, 30.0, NAN], nan_weights=4)
    make(tmp_path, "alexnet5", [2300.0, 45.0, NAN, 38.0], [0.1, 0.9, 0.99, 0.988])
    make(tmp_path, "alexnet6", [10.757448], [0.991], record=False)
    text = summary(load_groups([tmp_path]))
    assert table_row(text, "run")[:3] == ["seeds", "acc>=90%", "NaN"]
    assert table_row(text, "alexnet1") == ["1", "-", "1", "1", "nan", "8.50", "-"]
    assert table_row(text, "alexnet2") == ["1", "2", "4", "4", "nan", "8.50", "2.00"]
    assert table_row(text, "alexnet5") == ["1", "2", "3", "-", "38.0", "98.8", "2.00"]
    assert table_row(text, "alexnet6") == ["1", "1", "-", "?", "10.8", "99.1", "2.00"]
    assert "seeds:" not in text


def test_table_of_seeds_and_long_names(tmp_path):
    for seed, (epoch, nan) in enumerate(((11, 47), (12, None), (14, 45))):
        losses = [NAN if nan and e >= nan else loss for e, loss in enumerate(drop(epoch, 50), start=1)]
        make(tmp_path, f"alexnet2-seed{seed}", losses, nan_weights=nan)
    name = "alexnet7-fused-data1a2b3c4d-train20000-test500-batch50-epochs10-opencv-mixed"
    make(tmp_path, name, [1e12], epochs=100000)
    text = summary(load_groups([tmp_path]))
    assert max(map(len, text.splitlines())) <= 80
    assert table_row(text, "alexnet2") == ["3", "12", "46", "2/3", "46", "2/3", "40.0", "1/3", "8.50", "2.00"]
    assert table_row(text, "range") == ["11-14", "45-47", "45-47", "8.50-95.0", "2.00-2.00"]
    assert "only 3 of 5 seeds" in text
    assert f"{name}\n(epoch 1 of 100000)\n" in text and " 1e+12 " in text


def test_cells():
    assert cell([None]) == ("-", "") and cell([NAN]) == ("nan", "")
    assert cell([None] * 3) == ("0/3", "") and cell([INF, NAN]) == ("0/2", "")
    assert cell([12, 11, 14], "{:g}".format) == ("12", "11-14")
    assert cell([12, None, 14], "{:g}".format) == ("13 2/3", "12-14")
    assert cell([30.12, 2302.6]) == ("1166", "30.1-2303")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.0"), (26, "26.0"), (0.0341, "0.034"), (2302.6, "2303"), (3e12, "3e+12"), (0.001, "1e-03"), (NAN, "nan")],
)
def test_short_numbers(value, text):
    assert float(short(value)) == float(text) or short(value) == text
    assert len(short(value)) <= 5


# The command


def test_pictures_are_where_they_should_be_and_the_same_every_time(tmp_path, capsys):
    folder = tmp_path / "résultats 结果 of mine"
    make(folder, "alexnet2", [2300.0, 30.0, NAN], nan_weights=3)
    make(folder, "alexnet2-seed1", [2300.0, 30.0, 20.0])
    names = ["accuracy.png", "accuracy.svg", "loss.png", "loss.svg"]
    main([str(folder), "--svg", "--article"])
    assert sorted(path.name for path in folder.iterdir() if path.suffix in (".png", ".svg")) == names
    assert f"wrote {folder / 'loss.png'}" in capsys.readouterr().out
    other = tmp_path / "new" / "er"
    main([str(folder / "alexnet2.csv"), str(folder), "--svg", "--article", "--output-dir", str(other)])
    assert all((other / name).read_bytes() == (folder / name).read_bytes() for name in names)
    main([str(folder), "--output-dir", str(tmp_path / "plain")])
    assert sorted(path.name for path in (tmp_path / "plain").iterdir()) == ["accuracy.png", "loss.png"]


def test_results_is_the_default(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plot_results, "RESULTS", tmp_path)
    path = make(tmp_path, "alexnet4", [170.0, 90.0])
    main([])
    assert (tmp_path / "loss.png").exists()
    (tmp_path / "loss.png").unlink()
    main([str(path)])
    assert (tmp_path / "loss.png").exists()


def bad_content(text):
    return lambda folder: (folder / "alexnet2.csv").write_text(text) and folder


def bad_name(folder):
    return make(folder, "alexnet8", [1.0])


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
    "no CSV": (lambda folder: folder, "no CSV in this folder"),
    "no path": (lambda folder: folder / "nowhere", "no such file or folder"),
    "long path": (lambda folder: folder / ("x" * 300), "name"),
    "name": (bad_name, "alexnet8.csv: not a run's name"),
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
    assert (done.returncode, done.stderr) == (0, "") and "alexnet2" in done.stdout
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


def test_traces_become_a_third_picture(tmp_path):
    make(tmp_path, "alexnet7", [NAN])
    (tmp_path / "trace").mkdir()
    rows = [Iteration(1, 900.0, 0.1, 350.0), Iteration(2, 800.0, 0.2, 340.0), Iteration(3, NAN, 0.1, NAN)]
    write_csv(tmp_path / "trace" / "alexnet7-fused.csv", rows)
    assert read_csv(tmp_path / "trace" / "alexnet7-fused.csv", Iteration)[:2] == rows[:2]
    figure = plot_results.draw_iterations({"alexnet7-fused": rows, "alexnet7-fused-seed1": rows})
    above, below = figure.axes
    assert above.get_yscale() == "log" and above.get_legend_handles_labels()[1] == ["experiment 7, fused loss"]
    assert list(above.get_lines()[0].get_ydata())[:2] == [350.0, 340.0]
    assert list(below.get_lines()[0].get_ydata())[:2] == [0.1, 0.2]
    assert above.get_lines()[1].get_xydata().tolist() == [[2, 340]]  # the cross
    main([str(tmp_path)])
    assert (tmp_path / "iterations.png").exists()


def test_causes(tmp_path):
    kinds = [("log(0)", 3, 8, 90.0), ("log(0)", 2, None, 350.0), ("explosion", 1, 1, "inf"), None]
    for seed, kind in enumerate(kinds, start=1):
        path = make(tmp_path, f"alexnet2-seed{seed}", [2300.0, NAN, NAN] if kind else drop(2))
        record = read_record(path.with_suffix(".json"))
        keys = ("cause", "epoch", "iteration", "logit_gap")
        write_record(path.with_suffix(".json"), {**record, "nan_cause": kind and dict(zip(keys, kind))})
    lines = [line.split() for line in causes(load_groups([tmp_path])).splitlines()]
    assert ["alexnet2", "explosion", "1", "1:1", "not", "finite"] in lines
    assert ["alexnet2", "log(0)", "2", "2:test", "to", "3:8", "90", "to", "350"] in lines
    assert any(line[:3] == ["alexnet2", "finite", "1"] for line in lines)
    assert all(len(line) <= 80 for line in causes(load_groups([tmp_path])).splitlines())


def test_comparison_sets_the_article_beside_ours(tmp_path):
    for seed, plateau in enumerate((3, 12, 14)):
        make(tmp_path, f"alexnet2-seed{seed}", drop(plateau, length=50))
    make(tmp_path, "alexnet6-train2000", drop(2))
    make(tmp_path, "alexnet7", [NAN] * 50)
    text = plot_results.comparison(load_groups([tmp_path]))
    lines = [line.split() for line in text.splitlines()]
    assert ["2,", "the", "article", "1", "12", "47", "2299", ".122", "1955", ".391", "nan", ".085"] in lines
    (ours,) = [line for line in lines if line[:2] == ["alexnet2", "3"]]
    assert ours[2:4] == ["12", "0/3"] and ours[4] == "2300"
    assert "3-14" in text and "alexnet6" not in text and "7, the article" not in text
    assert ["alexnet7", "1", "-", "1"] in [line[:4] for line in lines]
    assert all(len(line) < 80 for line in text.splitlines())
