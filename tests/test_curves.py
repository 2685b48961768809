"""common/plots/curves.py: groups of runs, their medians, and the article's figures."""

import csv
import math

from common.cli import UserError
from common.plots import curves
from common.plots.curves import article, comparable_figures, load_groups, median_and_range, most_complete
from plot_helpers import NAN, make_run, plateau
import pytest


def names(groups):
    return ["-".join([str(group.number), *group.tags]) for group in groups]


def test_runs_are_grouped_by_name_without_seed(tmp_path):
    for name in ("alexnet2", "alexnet2-seed1", "alexnet2-seed12", "alexnet2-fused-seed1", "alexnet7-fused"):
        make_run(tmp_path, name, [2300.0])
    make_run(tmp_path, "alexnet6-train2000-test500-epochs2-seed3", [100.0])
    make_run(tmp_path / "trace", "alexnet2-mixed", [2300.0])
    (tmp_path / "alexnet2.csv.old1").write_text("moved aside")
    (tmp_path / "notes.csv").write_text("not a run")
    make_run(tmp_path / "short", "alexnet2-epochs1", [2300.0])
    make_run(tmp_path, "alexnet10", [2300.0])
    groups = load_groups([tmp_path])
    assert names(groups) == ["2", "2-fused", "6-train2000-test500-epochs2", "7-fused", "10"]
    assert [len(group.runs) for group in groups] == [3, 1, 1, 1, 1]
    assert [group.test_images for group in groups] == [1000, 1000, 500, 1000, 1000]


def test_the_same_file_twice_is_one_run(tmp_path):
    path = make_run(tmp_path, "alexnet2", plateau(3))
    assert [len(group.runs) for group in load_groups([path, tmp_path])] == [1]


def test_the_record_has_planned_epochs_and_nan_weights(tmp_path):
    make_run(tmp_path, "alexnet2", [2300.0, NAN, NAN], nan_weights=2)
    make_run(tmp_path, "alexnet3", [2300.0], epochs=50)
    make_run(tmp_path, "alexnet4", [100.0], record=False)
    runs = [group.runs[0] for group in load_groups([tmp_path])]
    assert [(run.epochs, run.nan_weights) for run in runs] == [(3, 2), (50, None), (1, 0)]


def test_the_most_complete_runs_of_the_protocol_are_shown(tmp_path):
    make_run(tmp_path, "alexnet2", plateau(3, 3), epochs=50)
    for name in ("2-mixed", "3", "3-mixed", "4", "4-mixed", "4-mixed-seed1"):
        make_run(tmp_path, f"alexnet{name}", plateau(3))
    for name in ("2-fused-mixed", "2-epochs12", "5-train2000", "6-test500", "7-batch50", "7-opencv", "1-data1a2b3c4d"):
        make_run(tmp_path, f"alexnet{name}", plateau(3, 12))
    groups = load_groups([tmp_path])
    assert names(most_complete(groups)) == ["2-mixed", "3", "4-mixed"]
    assert names(most_complete(groups, ["fused"])) == ["2-mixed", "2-fused-mixed", "3", "4-mixed"]


def test_of_shortened_runs_those_that_trained_longest_are_shown(tmp_path):
    for name in ("2-epochs1", "4-epochs1", "4-epochs1-mixed", "4-train20000-epochs1", "4-train20000-epochs1-seed1"):
        make_run(tmp_path, f"alexnet{name}", [40.0])
    make_run(tmp_path, "alexnet6-train2000-epochs4", plateau(2, 4))
    make_run(tmp_path, "alexnet6-batch50", plateau(2, 50))
    make_run(tmp_path, "alexnet7-fused-train20000-epochs1", [40.0])
    groups = load_groups([tmp_path])
    assert names(most_complete(groups)) == ["2-epochs1", "4-epochs1", "6-train2000-epochs4"]
    assert names(most_complete(groups, ["fused"]))[3:] == ["7-fused-train20000-epochs1"]
    make_run(tmp_path, "alexnet3", plateau(2))
    assert names(most_complete(load_groups([tmp_path]))) == ["3"]


def test_nan_seeds_are_left_out_of_the_median(tmp_path):
    for seed, losses in enumerate(([9.0, 10.0, NAN, NAN], [9.0, 20.0, NAN, NAN], [9.0, 30.0, 30.0, NAN], [9.0] * 4)):
        make_run(tmp_path, f"alexnet2-seed{seed}", losses)
    (group,) = load_groups([tmp_path])
    curve = median_and_range(group.runs, "loss")
    assert curve.x == (1, 2, 3, 4) and curve.median[:3] == (9.0, 15.0, 19.5)
    assert math.isnan(curve.median[3])  # one of four is finite
    assert curve.low == (9.0, 9.0, 9.0, 9.0) and curve.high == (9.0, 30.0, 30.0, 9.0)
    assert median_and_range(group.runs, "accuracy").low[3] == 0.085


def test_the_median_does_not_jump_where_an_unfinished_seed_ends(tmp_path):
    make_run(tmp_path, "alexnet3", plateau(3, 10))
    make_run(tmp_path, "alexnet3-seed1", plateau(2, 4), epochs=10)
    (group,) = load_groups([tmp_path])
    curve = median_and_range(group.runs, "loss")
    assert list(curve.median) == list(curve.high) == plateau(3, 10) and group.unfinished_note() == ["1 unfinished"]
    assert list(curve.low[:4]) == plateau(2, 4) and curve.low[4:] == curve.high[4:]


def test_article_csv_has_the_reported_figures():
    figures = article()
    assert list(figures) == list(range(1, 8)) and figures[7] == {}
    assert list(figures[1]) == [1, 2, 3, 4]
    assert all(math.isnan(loss) and accuracy == 0.085 for loss, accuracy in figures[1].values())
    assert figures[2][12] == (1955.1497, 0.391) and math.isnan(figures[2][47][0]) and figures[2][46][1] == 0.99
    assert list(figures[2]) == [1, 2, 11, 12, 13, 14, 44, 45, 46, 47, 48, 49, 50]
    assert figures[3][11] == (678.09644, 0.788) and figures[3][50] == (34.458153, 0.988)
    assert figures[4] == {1: (170.07048, 0.936), 2: (86.70665, 0.972), 50: (26.004112, 0.99)}
    assert figures[5][21] == (2114.1978, 0.301) and figures[5][22] == (366.07996, 0.872)
    assert figures[6][50] == (10.757448, 0.991)


def test_epochs_relabelled_from_the_published_csv_are_marked():
    with open(curves.ARTICLE_CSV, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["source"] for row in rows} == {"article", "published CSV"}
    relabelled = [(row["experiment"], row["epoch"]) for row in rows if row["source"] != "article"]
    assert relabelled == [("5", "21"), ("5", "22"), ("5", "49"), ("5", "50"), ("6", "2"), ("6", "49"), ("6", "50")]


@pytest.mark.parametrize(
    "text", ["epoch,loss\n1,2\n", "experiment,epoch,loss,accuracy,source\n9,1,2,0.1,article\n", None]
)
def test_a_damaged_article_csv_is_one_line(tmp_path, monkeypatch, text):
    path = tmp_path / "article.csv"
    if text:
        path.write_text(text)
    monkeypatch.setattr(curves, "ARTICLE_CSV", path)
    with pytest.raises(UserError, match="article.csv: not the article's figures; restore it from git"):
        article.__wrapped__()


def test_figures_are_compared_with_runs_of_the_protocol_up_to_their_last_epoch(tmp_path):
    for number in (1, 2, 7):
        make_run(tmp_path, f"alexnet{number}", [NAN] * 3, epochs=50)
    for name in ("6-epochs1", "4-train2000", "8"):
        make_run(tmp_path, f"alexnet{name}", [40.0])
    groups = load_groups([tmp_path])
    assert comparable_figures(groups) == {1: article()[1], 2: article()[2], 6: {1: article()[6][1]}}
    assert set(comparable_figures(groups, article())) == {1, 2, 3, 5, 6}
