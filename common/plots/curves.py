"""Runs as groups and curves: read from their files, and the article's figures beside them."""

import ast
import csv
from dataclasses import dataclass, field
import functools
import math
from pathlib import Path
import re
import statistics
from typing import NamedTuple

from common.cli import UserError
from common.results import Iteration, Row, read_csv, read_record

NAN = math.nan
ROOT = Path(__file__).parents[2]
ARTICLE_CSV = ROOT / "results" / "article.csv"
SHORTENED = re.compile(r"(train|test|epochs)\d+")  # tags of runs that differ from the protocol only in size
TITLES = {
    1: "default initial values",
    2: "stddev 0.01",
    3: "step learning-rate decay",
    4: "get_variable",
    5: "grouped conv4/5",
    6: "batch norm",
    7: "batch norm, default initial values",
}


class Run(NamedTuple):
    """A CSV and what its record adds; without a record it counts as complete, and the cause of a NaN is unknown.

    path         of the CSV
    rows         list of Row, epochs 1, 2, 3, ...
    epochs       how many epochs were planned
    nan_weights  the epoch in which the weights turned NaN; None: they did not; 0: no record
    cause        of the first loss that was not finite: (kind, epoch, iteration or None, logit gap); None: all were
                 finite; "?": there is no record
    """

    path: Path
    rows: list[Row]
    epochs: int
    nan_weights: int | None
    cause: tuple | str | None

    def trace(self):
        """The iterations of the run, list of Iteration, empty if there is no trace."""
        path = self.path.parent / "trace" / self.path.name
        return read_csv(path, Iteration) if path.exists() else []


@dataclass(frozen=True, eq=False)
class Group:
    """The runs of an experiment in one folder that differ only in their seeds.

    number   of the experiment
    tags     how they differ from the article's protocol, in the order of their names: ("fused", "mixed")
    runs     list of Run
    folder   of the runs; empty for those of the first folder
    variant  the tags that a picture shows (pictures.styled)
    style    the properties of its line in a picture (pictures.styled)
    """

    number: int
    tags: tuple[str, ...]
    runs: list[Run]
    folder: str = ""
    variant: str = ""
    style: dict = field(default_factory=dict)

    @property
    def key(self):
        """What identifies a group: (number, tags, folder)."""
        return self.number, self.tags, self.folder

    @property
    def mixed(self):
        return "mixed" in self.tags

    @property
    def variant_tags(self):
        """The tags without the precision."""
        return tuple(tag for tag in self.tags if tag != "mixed")

    @property
    def test_images(self):
        """How many images the test loss is summed over."""
        return self.tag_value("test", 1000)

    @property
    def train_images(self):
        """How many images an epoch has."""
        return self.tag_value("train", 60_000)

    def tag_value(self, name, default):
        """500 for a group with the tag test500."""
        values = [int(tag.removeprefix(name)) for tag in self.tags if re.fullmatch(rf"{name}[1-9]\d*", tag)]
        return values[0] if values else default

    @property
    def short_name(self):
        """2 for the article's protocol, 2 fused for another variant, 2 mine for another folder."""
        return " ".join(filter(None, [str(self.number), self.variant, self.folder]))

    @property
    def dashed(self):
        """Whether a picture shows it as a variant, or as of another folder than the first."""
        return bool(self.variant or self.folder)

    @property
    def label(self):
        """The group in a legend: 2 stddev 0.01 (5 seeds, 1 unfinished), 7 fused (20,000 images, 1 epoch)."""
        tags = self.variant.split()
        name = " ".join([str(self.number), *(tag for tag in tags if not SHORTENED.fullmatch(tag))])
        if name == str(self.number):
            name += f" {title(self.number)}"
        name += f", {self.folder}" * bool(self.folder)
        notes = [in_words(tag) for tag in tags if SHORTENED.fullmatch(tag)]
        notes += [f"{len(self.runs)} seeds"] * (len(self.runs) > 1) + self.unfinished_note()
        return f"{name} ({', '.join(notes)})" if notes else name

    def unfinished_note(self):
        """Return ['epoch 12 of 50'] for a run that is not complete, ['2 unfinished'] for two of several, else []."""
        unfinished = [run for run in self.runs if len(run.rows) < run.epochs]
        if len(self.runs) > 1:
            return [f"{len(unfinished)} unfinished"] if unfinished else []
        return [f"epoch {len(run.rows)} of {run.epochs}" for run in unfinished]


def in_words(tag):
    """train20000 -> 20,000 images, test500 -> 500 test images, epochs1 -> 1 epoch."""
    name, size = re.fullmatch(r"([a-z]+)(\d+)", tag).groups()
    unit = {"train": "images", "test": "test images", "epochs": "epochs"}[name]
    return f"{int(size):,} {unit.removesuffix('s') if int(size) == 1 else unit}"


class Curve(NamedTuple):
    """Columns of equal length: epochs or iterations, and the values of several runs or batches there; NaN: none."""

    x: tuple
    median: tuple
    low: tuple
    high: tuple


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


def parse_name(path):
    """alexnet6-fused-seed1.csv -> (6, ("fused",)), the key of its group; UserError if that is not a run's name."""
    name = re.fullmatch(r"alexnet([1-9]\d*)((?:-[a-z0-9]+)*)\.csv", path.name)
    if not name:
        raise UserError(f"{path}: not a run's name, such as alexnet2-seed1.csv; rename it or move it away")
    tags = name[2].split("-")[1:]
    return int(name[1]), tuple(tag for tag in tags if not re.fullmatch(r"seed\d+", tag))


def find_curves(path):
    """The CSVs of the runs in a folder, or the one CSV that path is; UserError where there is none."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; name a CSV that a run has written, or its folder")
    found = sorted(path.glob("alexnet*.csv"), key=lambda file: file.stem) if path.is_dir() else [path]
    if not found:
        raise UserError(f"{path}: no run's CSV here; train first (python alexnet1.py), or name another folder")
    return found


def load_groups(paths):
    """Return a list of Group of CSV files and folders, by experiment, then by folder.

    Raises UserError for a missing path or a file that is not a run's, and where a folder has no run.
    """
    groups, folders, loaded = {}, {}, set()
    for file in (file for path in paths for file in find_curves(path)):
        number, tags = parse_name(file)
        parent = file.parent.resolve()
        if parent not in folders:
            apart = parent.name not in [known.name for known in folders]
            folders[parent] = (parent.name if apart else str(file.parent)) if folders else ""
        folder = folders[parent]
        if file.resolve() not in loaded:
            loaded.add(file.resolve())
            group = groups.setdefault((number, tags, folder), Group(number, tags, [], folder))
            group.runs.append(load_run(file))
    order = list(folders.values())
    return sorted(groups.values(), key=lambda g: (g.number, order.index(g.folder), g.variant_tags, g.tags))


def title(number):
    """An experiment in a few words, for an eighth from its script's docstring; empty if there is no script."""
    if number in TITLES:
        return TITLES[number]
    try:
        docstring = ast.get_docstring(ast.parse((ROOT / f"alexnet{number}.py").read_text("utf-8")))
    except (OSError, SyntaxError, ValueError):
        return ""
    return (docstring or "").partition("\n")[0].rpartition(": ")[2].rstrip(".")


def most_complete(groups, variants=()):
    """Return the groups that follow the article's protocol except for precision and variants, such as fused.

    Of an experiment in two precisions, the one that came further, has more runs, or is in float32. If no group of a
    folder follows the protocol, the shortened ones instead, of each experiment the one that trained on most images.
    """
    protocol, best = {"mixed", *variants}, {}
    full = [group for group in groups if protocol.issuperset(group.tags)]
    shortened = [group for group in groups if all(tag in protocol or SHORTENED.fullmatch(tag) for tag in group.tags)]
    in_full = {group.folder for group in full}
    for group in full + [group for group in shortened if group.folder not in in_full]:
        kind = group.folder, group.number, set(variants).isdisjoint(group.tags)
        best[kind] = max(best.get(kind, group), group, key=completeness)
    return [group for group in groups if group in best.values()]


def completeness(group):
    """A key to sort groups by: images trained on, then number of runs, then float32 before mixed precision."""
    epochs = max(len(run.rows) for run in group.runs)
    return epochs * group.train_images, len(group.runs), not group.mixed


@functools.cache
def article():
    """Return {experiment: {epoch: (test loss, test accuracy)}}, what the article reports (results/article.csv)."""
    figures = {number: {} for number in TITLES}
    try:
        with open(ARTICLE_CSV, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                figures[int(row["experiment"])][int(row["epoch"])] = float(row["loss"]), float(row["accuracy"])
    except (KeyError, OSError, TypeError, ValueError):
        raise UserError(f"{ARTICLE_CSV}: not the article's figures; restore it from git") from None
    return figures


def comparable_figures(groups, missing_experiments=()):
    """Return {experiment: {epoch: (loss, accuracy)}}, the article's figures that compare with the groups'.

    missing_experiments are included although no group is of them.
    """
    figures = {number: {} for number in TITLES}
    for group in groups:
        if group.number in figures and all(re.match("mixed|opencv|epochs", tag) for tag in group.tags):
            reported, last = article()[group.number], max(run.epochs for run in group.runs)
            figures[group.number].update({epoch: reported[epoch] for epoch in reported if epoch <= last})
    for number in set(missing_experiments) - {group.number for group in groups}:
        figures[number] = article()[number]
    return {number: reported for number, reported in figures.items() if reported}


def furthest(runs):
    """The runs with the most epochs, list of Run: a median over all of them would jump where one ends."""
    most = max(len(run.rows) for run in runs)
    return [run for run in runs if len(run.rows) == most]


def finite(values):
    """Those of the values that are neither None nor NaN nor infinite, or else a NaN."""
    return [value for value in values if value is not None and math.isfinite(value)] or [NAN]


def median_and_range(runs, column):
    """Return the Curve of a column, a value an epoch: the median of the furthest runs and the range of all.

    Both are over the finite values; the median is also NaN where less than half of its runs have one.
    """
    points, leading = [], furthest(runs)
    for epoch in range(len(leading[0].rows)):
        values = finite(getattr(run.rows[epoch], column) for run in leading)
        median = statistics.median(values) if 2 * len(values) >= len(leading) else NAN
        reached = finite(getattr(run.rows[epoch], column) for run in runs if epoch < len(run.rows))
        points.append((epoch + 1, median, min(reached), max(reached)))
    return Curve(*zip(*points))
