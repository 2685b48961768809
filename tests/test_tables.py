"""common/plots/tables.py: the article's figures beside ours, and a line a run."""

from common.plots.curves import load_groups
from common.plots.tables import COMPARED, DETAILED, comparison, details, format_accuracy, format_number, summarise
from plot_helpers import INF, NAN, make_run, plateau
import pytest
import tabulate


def table(groups, render=comparison):
    """{first cell: the others} of a table's rows, as Markdown has them."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in render(groups, markdown=True).splitlines()]
    return {first: cells for first, *cells in rows[2:]}


def test_comparison_sets_the_article_beside_ours(tmp_path):
    losses = plateau(12, 50)[:46] + [NAN] * 4
    make_run(tmp_path, "alexnet2-mixed", losses, nan_weights=47, cause=("log(0)", 47, 9, 88.5))
    make_run(tmp_path, "alexnet6-test500", [1140.0, 100.0])
    make_run(tmp_path, "alexnet7", [NAN] * 50)
    make_run(tmp_path, "alexnet8", plateau(2))
    groups = load_groups([tmp_path])
    rows = table(groups)
    assert rows["2 the article"] == ["1", "12", "47", "2299, 0.122", "1955, 0.391", "", "nan, 0.085", "0.990"]
    cells = ["2300, 0.100", "40.0, 0.950", "40.0, 0.950", "nan, 0.085"]
    assert rows["2 ours mixed"] == ["1", "12", "47, log(0)", *cells, "0.950"]
    assert rows["6 test500"][:3] == ["1", "2", "-"]  # chance is 1,151
    assert rows["7 ours"] == ["1", "-", "1", *["nan, 0.085"] * 4, "0.085"] and "7 the article" not in rows
    assert rows["8 ours"][1] == "2" and "lowest" not in rows
    lines = comparison(groups).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("2 ours mixed"))
    assert lines[at].split()[3:] == ["1", "12", "47", "2300", "40.0", "40.0", "nan", "0.950"]
    assert lines[at + 1].split() == ["log(0)", "0.100", "0.950", "0.950", "0.085"]


def test_table_of_seeds_and_long_names(tmp_path):
    for seed, (epoch, nan) in enumerate(((11, 47), (12, None), (14, 45))):
        losses = [NAN if nan and e >= nan else loss for e, loss in enumerate(plateau(epoch, 50), start=1)]
        cause = nan and ("explosion" if seed else "log(0)", nan, 1, 88.0)
        make_run(tmp_path, f"alexnet2-seed{seed}", losses, nan_weights=nan, cause=cause)
    name = "alexnet7-fused-data1a2b3c4d-train20000-test500-batch50-epochs10-opencv-mixed"
    make_run(tmp_path, name, [1e12], epochs=100000)
    groups = load_groups([tmp_path])
    rows = table(groups)
    assert rows["2 ours"][:3] == ["3", "12", "46 2/3, explosion, log(0)"]
    assert rows["2 ours"][4:] == ["40.0, 0.950", "40.0, 0.950", "40.0 1/3, 0.085", "0.950"]
    assert rows["lowest"][1:4] == ["11", "45 2/3", "2300, 0.100"] and rows["highest"][1:3] == ["14", "47 2/3"]
    assert rows["highest"][4] == "2300, 0.950" and rows["highest"][6] == "40.0 1/3, 0.950"
    long = "7 fused data1a2b3c4d train20000 test500 batch50 epochs10 opencv mixed (epoch 1 of 100000)"
    assert rows[long][3] == "1e+12, 0.100"
    text = "\n".join([comparison(groups), COMPARED, details(groups), DETAILED])
    assert max(map(len, text.splitlines())) <= 80


def test_unfinished_runs_say_so(tmp_path):
    make_run(tmp_path, "alexnet2-mixed", plateau(3, 4), epochs=50)
    make_run(tmp_path, "alexnet3", plateau(3, 10))
    make_run(tmp_path, "alexnet3-seed1", plateau(3, 2), epochs=50)
    assert {"2 ours mixed (epoch 4 of 50)", "3 ours (1 unfinished)"} <= set(table(load_groups([tmp_path])))


def test_the_best_and_the_medians_are_of_the_runs_that_came_furthest(tmp_path):
    make_run(tmp_path, "alexnet3", plateau(13, 50))
    make_run(tmp_path, "alexnet3-seed1", plateau(11, 12, 80.0), [0.1] * 10 + [0.9, 0.92], epochs=50)
    rows = table(load_groups([tmp_path]))
    median, low, high = rows["3 ours (1 unfinished)"], rows["lowest"], rows["highest"]
    assert median[1] == "12" and median[4] == "2300, 0.100" and median[-1] == low[-1] == high[-1] == "0.950"
    assert (low[1], high[1]) == ("11", "13") and (low[4], high[4]) == ("80.0, 0.100", "2300, 0.920")


def test_a_nan_loss_with_finite_weights(tmp_path):
    make_run(tmp_path, "alexnet5", [100.0, NAN, 50.0, NAN, 40.0, INF], [0.95] * 6)
    groups = load_groups([tmp_path])
    assert table(groups)["5 ours"][2] == "2" and table(groups, details)["5"][-1] == "-"


def test_details_of_single_runs(tmp_path):
    kinds = [("log(0)", 3, 8, 90.0), ("log(0)", 2, None, 350.0), ("explosion", 1, 1, "inf"), None]
    for seed, kind in enumerate(kinds):
        losses = [2300.0, NAN, NAN] if kind else plateau(2)
        nan = kind and kind[1]
        make_run(tmp_path, f"alexnet2-seed{seed}", losses, nan_weights=nan, cause=kind, gap=[0.5, 61.0] + [7.0] * 8)
    rows = table(load_groups([tmp_path]), details)
    assert rows["2 seed0"] == ["3 of 3", "2.00", "log(0)", "3:8", "90.0", "3"]
    assert rows["2 seed1"] == ["3 of 3", "2.00", "log(0)", "2:test", "350", "2"]
    assert rows["2 seed2"] == ["3 of 3", "-", "explosion", "1:1", "inf", "1"]
    assert rows["2 seed3"] == ["10 of 10", "2.00", "-", "", "61.0", "-"]


def test_a_csv_without_its_record_is_unknown(tmp_path):
    make_run(tmp_path, "alexnet2", [2300.0, NAN], record=False)
    make_run(tmp_path, "alexnet6", [10.757448], [0.991], record=False)
    groups = load_groups([tmp_path])
    assert table(groups)["2 ours"][2] == "2, ?" and table(groups)["6 ours"][2] == "-"
    assert [row[2:4] + row[5:] for row in table(groups, details).values()] == [["?", "", "?"]] * 2
    assert "finite" not in comparison(groups) + details(groups)


def test_values_are_summarised_in_a_cell():
    integer = "{:g}".format
    assert summarise([None], integer) == "-" and summarise([NAN], format_number) == "nan"
    assert summarise([None] * 3, integer) == "-" and summarise([INF, NAN], format_number) == "inf"
    assert summarise([12, 11, 14], integer) == "12" and summarise([12, 11, 14], integer, min) == "11"
    assert summarise([12, None, 14], integer) == "13 2/3" and summarise([12, None, 14], integer, max) == "14 2/3"
    assert summarise([30.12, 2302.6], format_number) == "1166"
    assert format_accuracy(0.0854) == "0.085" and format_accuracy(1) == "1.000"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.0"), (26, "26.0"), (0.0341, "0.034"), (2302.6, "2303"), (3e12, "3e+12"), (0.001, "1e-03"), (NAN, "nan")],
)
def test_numbers_take_five_characters(value, text):
    assert float(format_number(value)) == float(text) or format_number(value) == text
    assert len(format_number(value)) <= 5


def test_tabulate_s_padding_is_restored(tmp_path):
    make_run(tmp_path, "alexnet2", plateau(2))
    before = tabulate.tabulate([[1, 2]], ["first", "second"])
    comparison(load_groups([tmp_path]))
    assert tabulate.tabulate([[1, 2]], ["first", "second"]) == before
