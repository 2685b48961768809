"""The README and the scripts' docstrings say what the files say, and a diff of two scripts shows an experiment."""

import ast
from collections import Counter
import difflib
import json
import math
import os
import re
import subprocess
from types import SimpleNamespace

from common.plots.curves import article
from common.results import Iteration, read_csv
import conftest
from conftest import ROOT
from evidence import (
    ARTICLE_WITH,
    ARTICLE_WITHOUT,
    counted_epochs,
    gap_line,
    independent,
    plateau_epoch,
    plateau_line,
    runs,
)
import numpy as np
import pytest
import step0

import plot_results

DOCUMENTS = {
    name: (ROOT / name).read_text("utf-8")
    for name in ("README.md", "README.zh-CN.md", "results/README.md", "tests/README.md", "common/README.md")
}
README, CHINESE, EVIDENCE, TESTS, COMMON = DOCUMENTS.values()


def table_rows(text, header):
    """{first cell: other cells} of the Markdown table whose header begins like this."""
    lines = text[text.index(header) :].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: rest for first, *rest in cells}


def curve(name):
    return read_csv(ROOT / "results" / f"{name}.csv")


def trace(name):
    return read_csv(ROOT / "results" / "trace" / f"{name}.csv", Iteration)


def record(name):
    return json.loads((ROOT / "results" / f"{name}.json").read_text("utf-8"))


SEEDS = ("", "-seed1", "-seed2", "-seed3", "-seed4")
OURS = ("alexnet1", "alexnet2", "alexnet3", "alexnet4-mixed", "alexnet5-mixed", "alexnet6-mixed", "alexnet7")
BEST = ["", *(max(row.accuracy for row in curve(name)) for name in OURS)]


def test_the_table_is_what_plot_results_prints(capsys):
    changed = subprocess.run(
        ["git", "status", "--porcelain", "results/*.csv"], cwd=ROOT, capture_output=True, text=True
    )
    if changed.stdout:
        pytest.skip("results/ has other runs than those that its README describes")
    (table,) = re.findall(r"^\| experiment .*?(?=\n\n)", EVIDENCE, re.S | re.M)
    plot_results.main(["--markdown"])
    assert capsys.readouterr().out.startswith(table + "\n\n")


@pytest.mark.parametrize("number", range(1, 8))
def test_the_short_table_is_that_of_the_curves(number):
    ours, theirs = curve(OURS[number - 1]), article()[number]
    learned = [
        next((row[0] for row in rows if row[1] < 0.95 * 1000 * math.log(10)), "never")
        for rows in ([(epoch, loss) for epoch, (loss, _) in theirs.items()], [(row.epoch, row.loss) for row in ours])
    ]
    nans = [
        next((epoch for epoch, (loss, _) in theirs.items() if math.isnan(loss)), "–"),
        record(OURS[number - 1])["nan_loss_epoch"] or "–",
    ]
    accuracies = [
        (f"{theirs[epoch][1]:.3f}" if epoch in theirs else "–") + f" / {ours[epoch - 1].accuracy:.3f}"
        for epoch in (1, 50)
    ]
    cells = table_rows(README, "| | parent | change")[str(number)]
    assert cells[2:] == ["{} / {}".format(*learned), "{} / {}".format(*nans), *accuracies]


def slope(number):
    """How much the widest gap grows in an epoch from 31 on, with its error: "1.16 ± 0.11"."""
    return gap_line(OURS[number - 1])[1]


def findings():
    """{experiment: the figures that its finding must name}, computed from the committed files."""
    hundred = {
        number: [curve(f"short/alexnet{number}-train20000-epochs1{seed}")[-1].accuracy for seed in ("", "-seed1")]
        for number in (4, 6)
    }
    causes = [record(f"alexnet1{loss}{seed}")["nan_cause"] for loss in ("", "-fused") for seed in SEEDS]
    assert [(cause["cause"], cause["iteration"]) for cause in causes] == [("explosion", 1)] * 5 + [("explosion", 2)] * 5
    assert record("alexnet2")["nan_cause"]["cause"] == "log(0)"
    assert not any(record(name)["nan_loss_epoch"] for name in OURS[2:6])
    fused, fourth = curve("alexnet7-fused-mixed"), curve("alexnet4-mixed")
    ends = [(name, plateau_epoch(curve(name))) for name in independent(runs(2, 5))]
    without, grouped = counted_epochs(ends)
    outlast = [
        [epoch not in range(13) for epoch in epochs] for epochs in (ARTICLE_WITH + grouped, ARTICLE_WITHOUT + without)
    ]
    return {
        1: ["5 of 5"],
        2: [f"{BEST[2]:.3f}", record("alexnet2")["nan_loss_epoch"], 47],
        3: [31, slope(3).partition(" ")[0], slope(2).partition(" ")[0]],
        4: [f"{fourth[0].accuracy:.3f}", f"{fourth[49].accuracy:.3f}"],
        5: [12, *ARTICLE_WITH, *grouped, *(f"{sum(group)} of {len(group)}" for group in outlast)],
        6: [f"{accuracy:.3f}" for number in (6, 4) for accuracy in sorted(hundred[number])],
        7: ["3 of 3", f"{fused[-1].accuracy:.3f}", len(fused)],
    }


@pytest.mark.parametrize("number", range(1, 8))
def test_a_finding_has_the_figures_of_the_files(number):
    text = table_rows(README, "| | the article concludes")[str(number)][2]
    assert [figure for figure in findings()[number] if not re.search(rf"(?<![\d.]){figure}(?!\d)", text)] == []
    assert len(text.split()) <= 20


def test_the_evidence_has_the_figures_of_the_files():
    second, fifth, fused = curve("alexnet2"), curve("alexnet5-mixed"), curve("alexnet7-fused-mixed")
    nan = record("alexnet2")["nan_cause"]
    ends = [[plateau_line(name)[1] for name in independent(runs(number))] for number in (2, 5)]
    without, grouped = ([end for end in known if end] for known in ends)  # None: still on its plateau
    delay = f"{np.mean(grouped) / np.mean(without):.1f}"
    first = [record(f"alexnet1{seed}")["nan_cause"]["logit_gap"] / 1e12 for seed in SEEDS]
    seventh = [record(f"alexnet7{seed}")["nan_cause"]["logit_gap"] for seed in SEEDS]
    short = [curve(f"short/alexnet7-fused-train20000-epochs1{seed}")[-1].accuracy for seed in SEEDS[:3]]
    fourth = [curve(f"short/alexnet4-epochs1{run}")[0].accuracy for run in ("", "-seed1", "-mixed")]
    ended = step0.plateaus(next(network for network in step0.NETWORKS if network.label == "4"))
    *_, before, last = trace("alexnet2")
    sentences = [
        f"{min(first):.0f} · 10¹² to {max(first):.0f} · 10¹² apart",
        f"{', '.join(f'{row.accuracy:.3f}' for row in second[11:14])} in epochs 12 to 14",
        f"by {second[13].logit_gap:.0f} in epoch 14, {second[29].logit_gap:.0f} in epoch 30, "
        f"{second[44].logit_gap:.0f} in epoch 45",
        f"in epoch {nan['epoch']}, iteration {nan['iteration']} (the article: 47)",
        f"At {nan['logit_gap']:.1f} the loss is NaN. Of that batch {100 * last.train_accuracy:.0f} % are classified",
        f"before has a loss of {before.train_loss:.2f}",
        f"grows by {slope(3)} an epoch instead of {slope(2)}",
        f"at most {max(row.logit_gap for row in curve('alexnet4-mixed')):.0f} (n = 1, float16)",
        "{:.3f} and {:.3f} (seeds 0 and 1, float32) and {:.3f} (seed 0, bfloat16)".format(*fourth),
        f"It had {fourth[1]:.3f} and took {ended[1]} (",
        f"({ended[0]} with seed 0,",
        f"{' and '.join(f'{end:,}' for end in without)} without, {' and '.join(f'{end:,}' for end in grouped)} with, "
        f"{delay} times as many",
        f"later by a factor of {delay}, no more accurate",
        f"grows by {slope(5)} an epoch, as in experiment 2",
        f"({fifth[49].accuracy:.3f} after epoch 50, {BEST[5]:.3f} at best, where 2 reached {BEST[2]:.3f})",
        f"pulls the logits {min(seventh):.0f} to {max(seventh):.0f} apart",
        f"{min(short):.2f} to {max(short):.2f} after 100 iterations (3 of 3 seeds), "
        f"{fused[9].accuracy:.3f} after 10 epochs",
        f"up to {max(row.logit_gap for row in fused):.0f} apart",
    ]
    assert [sentence for sentence in sentences if sentence not in " ".join(EVIDENCE.split())] == []
    counts = len(grouped), len(without)
    assert "it delays the descent by a factor of {} (n = {} and {}),".format(delay, *counts) in " ".join(README.split())
    assert "增至 {} 倍（n = {} 和 {}）".format(delay, *counts) in CHINESE
    assert fused[8].loss > 1000 * math.log(10) > fused[9].loss  # "only in epoch 10"


def test_the_chinese_page_has_the_figures_of_the_english_one():
    for english, chinese in ("| | the article", "| | 原文"), ("| | parent", "| | 父实验"):
        pairs = zip(table_rows(README, english).items(), table_rows(CHINESE, chinese).items(), strict=True)
        for (number, ours), (other, theirs) in pairs:
            figures = [re.findall(r"\d[\d.]*|–", " ".join(cells)) for cells in (ours[-5:], theirs[-5:])]
            assert number == other and Counter(figures[0]) <= Counter(figures[1]), (number, *figures)


def test_every_file_that_is_named_is_there():
    missing = []
    for name, text in DOCUMENTS.items():
        folder = (ROOT / name).parent
        links = set(re.findall(r"\]\(([^)#]+)", text))
        named = set(re.findall(r"`((?:\.\./)?(?:results|common|tests)/[\w./-]+\.\w+|alexnet[1-7]\.py)", text))
        links = {link for link in links if "://" not in link}
        missing += [(name, link) for link in links if not (folder / link).exists()]
        missing += [
            (name, path)
            for path in named
            if "NAME" not in path and not any((base / path).exists() for base in (ROOT, folder))
        ]
    for number in range(1, 8):
        named = set(re.findall(r"results/[\w./-]+\.\w+", (ROOT / f"alexnet{number}.py").read_text("utf-8")))
        missing += [(number, path) for path in named if not (ROOT / path).exists()]
    assert missing == []


def test_the_reading_order_is_that_of_the_imports():
    order = re.findall(r"^\| `(\w+)\.py` \|", COMMON, re.M)
    paths = {path.stem: path for path in (ROOT / "common").glob("[a-z]*.py")}
    assert sorted(order) == sorted(paths)
    for place, name in enumerate(order):
        assert conftest.common_imports(paths[name]) <= {*order[:place], "plots"}, name


def test_the_pages_are_short():
    assert len(README.splitlines()) <= 180 and len(CHINESE.splitlines()) <= 90


def code(number):
    """The lines of a script without its docstring."""
    text = (ROOT / f"alexnet{number}.py").read_text("utf-8")
    return text.splitlines()[ast.parse(text).body[0].end_lineno :]


@pytest.mark.parametrize(
    "parent, child, removed, added",
    [(1, 2, 2, 2), (2, 3, 1, 7), (1, 4, 2, 2), (2, 5, 4, 12), (2, 6, 4, 32), (6, 7, 2, 2)],
)
def test_the_scripts_have_not_drifted_apart(parent, child, removed, added):
    lines = [line[0] for line in difflib.unified_diff(code(parent), code(child), n=0, lineterm="")][2:]
    assert (lines.count("-"), lines.count("+")) == (removed, added)


@pytest.mark.parametrize("number", range(1, 8))
def test_the_docstring_has_its_fields(number):
    docstring = ast.get_docstring(ast.parse((ROOT / f"alexnet{number}.py").read_text("utf-8")))
    parent = {1: None, 2: 1, 3: 2, 4: 1, 5: 2, 6: 2, 7: 6}[number]
    fields = re.findall(r"^(\w+): +\S", docstring, re.M)
    assert fields == ["Parent", "Change", "Protocol", "Article", "Ours", "Diff"]
    if parent:
        assert f"Parent:   alexnet{parent}.py\n" in docstring
        assert docstring.endswith(f"Diff:     diff alexnet{parent}.py alexnet{number}.py")


def test_speeds_are_those_of_the_benchmark():
    text = (ROOT / "results" / "benchmark.txt").read_text("utf-8").split("\n$ ")[0]  # the first command's output
    rows = re.findall(r"^\| `(alexnet\d)\.py` \| (\w+) \| ([\d.]+) \| (\d+) min \| (\d+) h \|", TESTS, re.M)
    assert len(rows) == 6
    for script, precision, rate, minutes, hours in rows:
        (block,) = re.findall(rf"^{script}, batch 200\n.*?\n\n", text, re.M | re.S)
        assert re.search(rf"^  this repository, {precision} +{re.escape(rate)} ", block, re.M)
        assert int(minutes) == round(60_000 / float(rate) / 60) and int(hours) == round(50_000 / float(rate) / 60)


@pytest.mark.parametrize(
    "source, expression, given, worker, gigabytes, processes",
    [
        ("TESTPATHS", "not slow", None, False, 8, 2),
        ("TESTPATHS", "not slow", None, True, 8, None),  # a worker must not start workers of its own
        ("TESTPATHS", "not slow", 0, False, 8, 0),
        ("TESTPATHS", "not slow", None, False, 4, None),
        ("TESTPATHS", "slow", None, False, 8, 2),
        ("TESTPATHS", "gpu", None, False, 8, None),
        ("ARGS", "not slow", None, False, 8, None),
    ],
)
def test_all_quick_or_all_slow_tests_share_two_processes(
    source, expression, given, worker, gigabytes, processes, monkeypatch
):
    monkeypatch.setattr(conftest, "memory", lambda: gigabytes * 1e9)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    options = SimpleNamespace(markexpr=expression, usepdb=False, numprocesses=given, dist="no")
    config = SimpleNamespace(option=options, args_source=SimpleNamespace(name=source))
    if worker:
        config.workerinput = {}
    conftest.pytest_cmdline_main(config)
    assert options.numprocesses == processes
