"""The README and the scripts' docstrings say what the files say, and a diff of two scripts shows an experiment."""

import ast
import difflib
import os
import re
import subprocess
from types import SimpleNamespace

import conftest
from conftest import ROOT
import pytest

import plot_results

README = (ROOT / "README.md").read_text("utf-8")


def test_the_table_is_what_plot_results_prints(capsys):
    changed = subprocess.run(["git", "status", "--porcelain", "results"], cwd=ROOT, capture_output=True, text=True)
    if changed.stdout:
        pytest.skip("results/ has other runs than those that README tells of")
    (table,) = re.findall(r"^\| experiment .*?(?=\n\n)", README, re.S | re.M)
    plot_results.main(["--markdown"])
    assert capsys.readouterr().out.startswith(table + "\n\n")


def test_every_file_that_is_named_is_there():
    named = set(re.findall(r"(?:results|common|tests)/[\w./-]+\.\w+|alexnet[1-7]\.py", README))
    for number in range(1, 8):
        named |= set(re.findall(r"results/[\w./-]+\.\w+", (ROOT / f"alexnet{number}.py").read_text("utf-8")))
    missing = [name for name in sorted(named) if "NAME" not in name and not (ROOT / name).exists()]
    assert len(named) > 10 and missing == []


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
def test_the_docstring_says_what_it_must(number):
    docstring = ast.get_docstring(ast.parse((ROOT / f"alexnet{number}.py").read_text("utf-8")))
    parent = {1: None, 2: 1, 3: 2, 4: 1, 5: 2, 6: 2, 7: 6}[number]
    fields = re.findall(r"^(\w+): +\S", docstring, re.M)
    assert fields == ["Parent", "Change", "Article", "Ours", "Diff"]
    if parent:
        assert f"Parent:   alexnet{parent}.py\n" in docstring
        assert docstring.endswith(f"Diff:     diff alexnet{parent}.py alexnet{number}.py")


def test_speeds_are_those_of_the_benchmark():
    text = (ROOT / "results" / "benchmark.txt").read_text("utf-8").split("\n$ ")[0]  # the first command's output
    rows = re.findall(r"^\| `(alexnet\d)\.py` \| (\w+) \| ([\d.]+) \| (\d+) min \| (\d+) h \|", README, re.M)
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
        ("TESTPATHS", "slow", None, False, 8, None),
        ("ARGS", "not slow", None, False, 8, None),
    ],
)
def test_all_quick_tests_share_two_processes(source, expression, given, worker, gigabytes, processes, monkeypatch):
    monkeypatch.setattr(conftest, "memory", lambda: gigabytes * 1e9)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    options = SimpleNamespace(markexpr=expression, usepdb=False, numprocesses=given, dist="no")
    config = SimpleNamespace(option=options, args_source=SimpleNamespace(name=source))
    if worker:
        config.workerinput = {}
    conftest.pytest_cmdline_main(config)
    assert options.numprocesses == processes
