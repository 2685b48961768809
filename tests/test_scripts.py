"""Every script as a user starts it, on a few real digits, and what its flags do to a real run."""

import json
import math
import shlex
import subprocess
import sys

from common.cli import run_script
from common.results import read_csv
from conftest import ROOT
import pytest

SMALL = ["--device", "cpu", "--train-size", "16", "--test-size", "20", "--batch-size", "8", "--epochs", "2"]


def start(number, folder, *flags, small=SMALL):
    """Run a script in a process of its own; returns the finished process."""
    command = [sys.executable, str(ROOT / f"alexnet{number}.py"), *small, "--results-dir", str(folder), *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def files(folder):
    """The rows of the only CSV in folder, and its record, read as strict JSON."""
    (path,) = folder.glob("*.csv")
    return read_csv(path), json.loads(path.with_suffix(".json").read_text("utf-8"), parse_constant=pytest.fail)


@pytest.mark.parametrize("number", [pytest.param(n, marks=[pytest.mark.slow] * (n != 2)) for n in range(1, 8)])
def test_script(number, tmp_path, mnist):
    done = start(number, tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    rows, record = files(tmp_path)
    assert [row.epoch for row in rows] == [1, 2]
    assert record["experiment"] == f"alexnet{number}" and record["complete"]
    assert record["name"] == f"alexnet{number}-train16-test20-batch8-epochs2"
    sizes = "--epochs 2 --batch-size 8 --train-size 16 --test-size 20"
    assert record["command"] == f"python alexnet{number}.py {sizes} --device cpu"
    if number in (1, 7):
        zeros = (mnist.test_labels[:20] == 0).mean()
        assert all(math.isnan(row.loss) and row.accuracy == zeros for row in rows)
        assert record["nan_weights"] == {"epoch": 1, "iteration": 1} and record["filled_from_epoch"] == 2
        assert record["nan_cause"]["cause"] == {1: "explosion", 7: "log(0)"}[number]
    else:
        assert all(math.isfinite(row.loss) and row.seconds > 0 for row in rows)
        assert record["nan_weights"] is None
    if number in (2, 3, 5):  # the plateau: ln 10 per image
        assert rows[0].loss == pytest.approx(20 * math.log(10), rel=0.05)


@pytest.mark.slow
def test_batch_norm_learns_on_a_few_hundred_digits(tmp_path):
    sizes = ["--device", "cpu", "--train-size", "320", "--test-size", "100", "--batch-size", "16", "--epochs", "2"]
    assert start(6, tmp_path, small=sizes).returncode == 0
    rows, _ = files(tmp_path)
    assert rows[-1].accuracy >= 0.5 and rows[-1].train_accuracy > rows[0].train_accuracy


@pytest.mark.slow
def test_a_complete_run_is_left_alone_and_restart_keeps_its_files(tmp_path):
    folder = tmp_path / "Läufe und mehr"
    folder.mkdir()
    start(1, folder)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir() if path.is_file()}
    again = start(1, folder)
    assert again.returncode == 0 and "is complete: nothing to do" in again.stdout
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir() if path.is_file()}
    assert start(1, folder, "--restart").returncode == 0
    for path, (content, _) in before.items():
        assert path.exists() and path.with_name(f"{path.name}.old1").read_bytes() == content


@pytest.mark.slow
def test_two_runs_with_one_seed_agree_and_opencv_is_close(tmp_path):
    rows = {}
    for name, flags in {"a": [], "b": [], "opencv": ["--resize", "opencv"], "seed": ["--seed", "1"]}.items():
        (tmp_path / name).mkdir()
        done = start(4, tmp_path / name, *flags)
        assert done.returncode == 0, done.stderr
        rows[name] = [row._replace(seconds=None) for row in files(tmp_path / name)[0]]
    assert rows["a"] == rows["b"] != rows["seed"]
    for ours, reference in zip(rows["a"], rows["opencv"]):
        assert ours.loss == pytest.approx(reference.loss, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags, words",
    [
        (["--device", "gpu:99"], "--device gpu:99"),
        (["--data-dir", "nowhere"], "nowhere"),
        (["--train-size", "70000"], "--train-size 70000"),
        (["--precision", "mixed", "--xla"], "--xla"),
        (["--gpu-memory-fraction", "0.5"], "--gpu-memory-fraction"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(flags, words, tmp_path):
    done = start(1, tmp_path, *flags)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and words in done.stderr and done.stderr.startswith("alexnet1.py: error: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("how", ["true", "head -n 1", ">&-", ">&- 2>&-", "< /dev/null 2>&-"])
def test_a_closed_output_loses_nothing(how, tmp_path):
    command = shlex.join([sys.executable, str(ROOT / "alexnet4.py"), *SMALL, "--results-dir", str(tmp_path)])
    end = how if "&-" in how else f"| {how}"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command} {end}"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    rows, record = files(tmp_path)
    assert len(rows) == 2 and record["complete"]


@pytest.mark.parametrize("number", range(1, 8))
def test_help_fits_a_terminal_of_80_columns(number, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", sys.argv)  # which run_script replaces
    assert run_script(ROOT / f"alexnet{number}.py", ["--help"]) == (0, None)
    help_text = capsys.readouterr().out
    assert max(map(len, help_text.splitlines())) <= 80 and "\nArticle:  " in help_text


@pytest.mark.slow
def test_xla_and_deterministic_runs(tmp_path):
    for number, flags in {6: ["--xla"], 2: ["--deterministic", "--log-device-placement", "--no-tf32"]}.items():
        (tmp_path / str(number)).mkdir()
        done = start(number, tmp_path / str(number), *flags)
        assert done.returncode == 0, done.stderr
        rows, record = files(tmp_path / str(number))
        assert all(math.isfinite(row.loss) for row in rows) and record[flags[0][2:]] is True


@pytest.mark.parametrize("module", ["evidence", "kill", "power_cut", "precision", "soak", "step0"])
def test_help(module):
    done = subprocess.run([sys.executable, "-m", f"tests.{module}", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and f"python -m tests.{module}" in done.stdout, done.stderr
