"""The curves of runs: read from their files, put into groups, and the article's figures beside them.

A group is named as its runs are, less the seed: alexnet2-mixed holds alexnet2-mixed.csv, alexnet2-mixed-seed1.csv, ...
This module does not import TensorFlow.
"""

import ast
import math
from pathlib import Path
import re
import statistics
from typing import NamedTuple

from common.cli import UserError
from common.results import Iteration, Row, read_csv, read_record

NAN = math.nan
# What the article tells of its own runs: {experiment: (in short, {epoch: (test loss, test accuracy)})}.
ARTICLE = {
    1: ("default initial values", {epoch: (NAN, 0.085) for epoch in (1, 2, 3, 4)}),
    2: (
        "stddev 0.01",
        {1: (2299.4792, 0.122), 2: (2299.8113, 0.117), 11: (2293.2812, 0.125), 12: (1955.1497, 0.391)}
        | {13: (353.29596, 0.866), 14: (146.65419, 0.954), 44: (36.49175, 0.99), 45: (22.933325, 0.986)}
        | {46: (35.3011, 0.99)}
        | {epoch: (NAN, 0.085) for epoch in (47, 48, 49, 50)},
    ),
    3: (
        "step learning-rate decay",
        {1: (2300.436, 0.117), 2: (2299.375, 0.13), 10: (2290.4155, 0.154), 11: (678.09644, 0.788)}
        | {12: (178.35306, 0.948), 49: (35.42096, 0.988), 50: (34.458153, 0.988)},
    ),
    4: ("get_variable", {1: (170.07048, 0.936), 2: (86.70665, 0.972), 50: (26.004112, 0.99)}),
    5: (
        "grouped conv4/5",
        {1: (2297.4663, 0.104), 2: (2299.2734, 0.124), 21: (2114.1978, 0.301), 22: (366.07996, 0.872)}
        | {49: (44.795494, 0.992), 50: (37.983482, 0.988)},
    ),
    6: (
        "batch norm",
        {1: (44.443394, 0.979), 2: (34.873466, 0.988), 49: (13.521537, 0.992), 50: (10.757448, 0.991)},
    ),
    7: ("batch norm, default initial values", {}),
}


class Run(NamedTuple):
    """A CSV with what its record adds; without a record it passes for complete, and why it broke is unknown.

    path         of the CSV
    rows         list of Row, epochs 1, 2, 3, ...
    epochs       how many epochs the run is to have
    nan_weights  the epoch in which the weights turned NaN; None: they did not; 0: no record tells
    cause        of the first loss that was not finite: (kind, epoch, iteration or None, logit gap); None: all were
                 finite; "?": no record tells
    """

    path: Path
    rows: list[Row]
    epochs: int
    nan_weights: int | None
    cause: tuple | str | None

    def trace(self):
        """The iterations of the run, list of Iteration, empty if they were not kept."""
        path = self.path.parent / "trace" / self.path.name
        return read_csv(path, Iteration) if path.exists() else []


def load_run(path):
    """Read NAME.csv, and NAME.json if it is there."""
    rows, record_path = read_csv(path), path.with_suffix(".json")
    if not record_path.exists():
        return Run(path, rows, len(rows), 0, "?")
    record = read_record(record_path)
    try:
        epochs = len(rows) if record["complete"] else int(record["arguments"]["epochs"])
        nan_weights = record["nan_weights"]
        cause = record.get("nan_cause")
        if cause:
            cause = str(cause["cause"]), int(cause["epoch"]), cause["iteration"], float(cause["logit_gap"])
        return Run(path, rows, epochs, nan_weights and int(nan_weights["epoch"]), cause)
    except (KeyError, OverflowError, TypeError, ValueError):
        what = "not a run's record; restore it from git, or run its experiment with --restart"
        raise UserError(f"{record_path}: {what}") from None


def group_of(path):
    """alexnet6-fused-seed1.csv -> alexnet6-fused; UserError if that is not a run's name."""
    if not re.fullmatch(r"alexnet[1-9]\d*(-[a-z0-9]+)*\.csv", path.name):
        raise UserError(f"{path}: not a run's name, such as alexnet2-seed1.csv; rename it or move it away")
    return re.sub(r"-seed\d+(?=-|$)", "", path.stem)


def load_groups(paths):
    """Return {group: list of Run} of CSV files and folders, in the order of the experiments.

    Raises UserError for what is not there or not a run, and where a folder has no run or two files the same name.
    """
    groups, files = {}, {}
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; name a CSV that a run has written, or its folder")
        found = sorted(path.glob("alexnet*.csv"), key=lambda file: file.stem) if path.is_dir() else [path]
        if not found:
            raise UserError(f"{path}: no run's CSV here; train first (python alexnet1.py), or name another folder")
        for file in found:
            group = group_of(file)
            if file.name not in files:
                files[file.name] = file
                groups.setdefault(group, []).append(load_run(file))
            elif not files[file.name].samefile(file):
                raise UserError(f"{file}: {files[file.name]} has the same name; rename one, or plot them apart")
    apart = {group: [part for part in parts(group) if part != "mixed"] for group in groups}
    return {
        group: groups[group] for group in sorted(groups, key=lambda group: (experiment(group), apart[group], group))
    }


def experiment(group):
    """alexnet6-fused -> 6."""
    return int(re.match(r"alexnet(\d+)", group)[1])


def parts(group):
    """alexnet6-fused-mixed -> [fused, mixed], what sets a group apart from the article's protocol."""
    return group.split("-")[1:]


def images(group):
    """alexnet6-test500 -> 500, the test images; 1,000 unless the name says otherwise."""
    return int((re.search(r"-test(\d+)", group) or [0, 1000])[1])


def variant(group, groups):
    """What sets a group apart, for a label: its parts, without the precision unless groups has it in float32, too."""
    precision_tells = group.replace("-mixed", "") != group and group.replace("-mixed", "") in groups
    return " ".join(part for part in parts(group) if part != "mixed" or precision_tells)


def title(number):
    """An experiment in a few words, the article's or those of its script's docstring; empty if there is no script."""
    if number in ARTICLE:
        return ARTICLE[number][0]
    try:
        docstring = ast.get_docstring(ast.parse((Path(__file__).parents[1] / f"alexnet{number}.py").read_text("utf-8")))
    except (OSError, SyntaxError, ValueError):
        return ""
    return (docstring or "").partition("\n")[0].rpartition(": ")[2].rstrip(".")


def fullest(groups, variants=()):
    """Return those groups that follow the article's protocol in all but precision and variants, such as fused.

    Where an experiment was run in two precisions, that which came further, was run more often, or float32.
    """
    best = {}
    for group, runs in groups.items():
        apart = set(parts(group)) - {"mixed"}
        if apart <= set(variants):
            rank = max(len(run.rows) for run in runs), len(runs), "mixed" not in parts(group)
            key = experiment(group), *apart
            best[key] = max(best.get(key, (rank, group)), (rank, group))
    chosen = {group for _, group in best.values()}
    return {group: runs for group, runs in groups.items() if group in chosen}


def article(groups, others=()):
    """Return {experiment: {epoch: (loss, accuracy)}}, the article's figures that can be held against some groups.

    others are experiments whose figures to return even if none of the groups is of them.
    """
    figures = {number: {} for number in ARTICLE}
    for group, runs in groups.items():
        if experiment(group) in figures and all(re.match("mixed|opencv|epochs", part) for part in parts(group)):
            told, last = ARTICLE[experiment(group)][1], max(run.epochs for run in runs)
            figures[experiment(group)].update({epoch: told[epoch] for epoch in told if epoch <= last})
    figures |= {number: ARTICLE[number][1] for number in set(others) - set(map(experiment, groups))}
    return {number: told for number, told in figures.items() if told}


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
    columns = []
    for epoch in range(max(len(run.rows) for run in runs)):
        values = [getattr(run.rows[epoch], field) for run in runs if epoch < len(run.rows)]
        finite = [value for value in values if value is not None and math.isfinite(value)] or [NAN]
        columns.append((statistics.median(finite) if 2 * len(finite) >= len(values) else NAN, min(finite), max(finite)))
    return tuple(zip(*columns))
