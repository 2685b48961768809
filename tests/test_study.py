"""The study runs what is missing, skips what is complete, stops when asked, and exits with 0 only if all is well."""

import fcntl
import gzip
import json
import os
from pathlib import Path
import pty
import shlex
import signal
import struct
import subprocess
import sys
import termios

from common import results
from common.cli import STOPPING
from common.study import plan
from conftest import ROOT
import pytest
from test_scripts import SMALL

NAME = "train16-test20-batch8-epochs2"


def study(folder, *flags, more=(), **options):
    command = [sys.executable, "-m", "common.study", *flags, "--", *SMALL, "--results-dir", str(folder), *more]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, **options}
    return subprocess.Popen(command, **options)


def finished(folder, name, seconds=1.0):
    """Write the files of a complete run that took this many seconds."""
    results.write_csv(folder / f"{name}.csv", [results.Row(epoch, 2.3, 0.1) for epoch in (1, 2)])
    results.write_record(folder / f"{name}.json", {"complete": True, "wall_seconds": seconds})


def test_the_plan():
    runs = plan(5)
    assert len(runs) == len(set(runs)) == 9 * 5 and {run[0] for run in runs[:7]} == set(range(1, 8))
    assert all(seed == 0 for *_, seed in runs[:9])
    assert runs[9:21] == [(number, "naive", seed) for seed in range(1, 5) for number in (2, 3, 5)]
    assert plan(1) == runs[:9]


@pytest.mark.slow
def test_complete_runs_are_skipped(tmp_path):
    finished(tmp_path, f"alexnet1-{NAME}")
    out, err = study(tmp_path, "--only", "1", "--seeds", "2").communicate()
    assert err == "" and out.splitlines()[0] == f"alexnet1-{NAME} is complete"
    assert f"\nalexnet1-{NAME}-seed1: 2 epochs of 16 images, 8 a batch\n" in out
    assert out.splitlines()[-1] == "2 of 2 runs are complete, 0 failed"
    assert json.loads((tmp_path / f"alexnet1-{NAME}-seed1.json").read_text())["complete"]


@pytest.mark.slow
def test_another_data_set_is_another_run(tmp_path):
    """Files of MNIST's format and names, of 16 and 20 white images."""
    data, folder = tmp_path / "data", tmp_path / "results"
    for path in data, folder:
        path.mkdir()
    for part, count in {"train": 16, "t10k": 20}.items():
        images = struct.pack(">4I", 2051, count, 28, 28) + bytes([255]) * count * 784
        (data / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (data / f"{part}-labels-idx1-ubyte.gz").write_bytes(
            gzip.compress(struct.pack(">2I", 2049, count) + bytes(count))
        )
    finished(folder, f"alexnet1-{NAME}")
    process = study(folder, "--only", "1", "--seeds", "1", more=["--data-dir", str(data)])
    out, _ = process.communicate()
    assert process.returncode == 0, out
    (curve,) = folder.glob("alexnet1-data????????-test20-batch8-epochs2.csv")
    assert len(results.read_csv(curve)) == 2


@pytest.mark.slow
def test_failed_runs_are_named_and_the_others_run(tmp_path):
    finished(tmp_path, f"alexnet1-{NAME}")
    damaged = tmp_path / f"alexnet1-{NAME}.json"
    damaged.write_text(damaged.read_text()[:-5])
    (tmp_path / ".checkpoints").mkdir()
    with open(tmp_path / ".checkpoints" / f"alexnet6-{NAME}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = study(tmp_path, "--only", "6,4,1", "--seeds", "1")
        out, err = process.communicate()
    assert process.returncode == 1
    *_, first, second, last = out.splitlines()
    assert (first, second) == tuple(f"alexnet{number}-{NAME} failed: exit code 2" for number in (6, 1))
    assert last == "1 of 3 runs are complete, 2 failed" and (tmp_path / f"alexnet4-{NAME}.csv").exists()
    locked, unreadable = err.splitlines()
    assert locked.startswith(f"alexnet6.py: error: alexnet6-{NAME}: another run is writing its files")
    assert unreadable.startswith(f"alexnet1.py: error: {damaged}: ") and "restore it from git" in unreadable


@pytest.mark.slow
def test_a_closed_output_loses_nothing(tmp_path):
    flags = shlex.join(["--only", "4,1", "--seeds", "1", "--", *SMALL, "--results-dir", str(tmp_path)])
    command = f"set -o pipefail; {sys.executable} -m common.study {flags} | head -n 2"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 2)
    first, second = (
        [tmp_path / path for path in (f"alexnet{n}-{NAME}.json", f"trace/alexnet{n}-{NAME}.csv")] for n in (4, 1)
    )
    assert all(json.loads(record.read_text())["complete"] for record, _ in (first, second))
    assert first[0].stat().st_mtime < second[1].stat().st_mtime  # one after the other


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_stops_the_current_run_and_starts_no_other(number, tmp_path):
    process = study(tmp_path, "--only", "6", "--seeds", "3", more=["--epochs", "1000"])
    for line in process.stdout:
        if "epoch 1/1000, loss" in line:
            process.send_signal(number)
            break
    out, err = process.communicate()
    assert process.returncode == 128 + number and "the same command resumes there" in out
    assert out.splitlines()[-1] == "0 of 3 runs are complete, 0 failed, stopped early"
    assert err == f"\n{STOPPING}\n"
    (begun,) = tmp_path.glob("*.csv")
    assert (tmp_path / ".checkpoints" / f"{begun.stem}.npz").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_before_the_script_listens_is_no_failure(number, tmp_path):
    process = study(tmp_path, "--only", "6", "--seeds", "3")
    while not Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text():
        assert process.poll() is None
    process.send_signal(number)
    out, err = process.communicate()
    assert (process.returncode, err) == (128 + number, "")
    assert out == "0 of 3 runs are complete, 0 failed, stopped early\n"


@pytest.mark.slow
def test_a_terminal_shows_what_the_script_shows(tmp_path):
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    process = study(tmp_path, "--only", "6", "--seeds", "1", stdout=there, stderr=there)
    os.close(there)
    shown = b""
    try:
        while part := os.read(here, 4096):
            shown += part
    except OSError:  # Linux: the other end is closed
        pass
    assert process.wait() == 0
    lines = shown.decode().replace("\r", "\n").splitlines()
    assert any(line.startswith("epoch 1/2   0% |") for line in lines)
    assert any(line.startswith("epoch 2/2, loss ") for line in lines)


def test_status(tmp_path):
    name = f"alexnet2-{NAME}"
    finished(tmp_path, name, seconds=20)
    results.write_csv(tmp_path / f"{name}-seed1.csv", [results.Row(1, 2.3, 0.1)])
    results.write_record(tmp_path / f"{name}-seed1.json", {"complete": False, "wall_seconds": 30})
    for seed, intact in (2, "csv"), (3, "json"):  # the other file is cut off
        finished(tmp_path, f"{name}-seed{seed}")
        for path in tmp_path.glob(f"{name}-seed{seed}.*"):
            path.write_bytes(path.read_bytes()[: None if intact in path.name else -3])
    finished(tmp_path, f"alexnet2-fused-{NAME}-mixed-seed1")
    before = sorted(tmp_path.rglob("*"))
    process = study(tmp_path, "--only", "2", "--seeds", "4", "--status")
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "") and before == sorted(tmp_path.rglob("*"))
    assert [line.split() for line in out.splitlines()[:6]] == [
        [name, "is", "complete"],
        [f"alexnet2-fused-{NAME}-seed1", "is", "complete", "as", f"alexnet2-fused-{NAME}-mixed-seed1"],
        [f"alexnet2-fused-{NAME}", "missing", "unknown"],
        [f"{name}-seed1", "epoch", "1", "of", "2", "0:00:20"],
        [f"{name}-seed2", "unreadable", "0:00:40"],
        [f"{name}-seed3", "unreadable", "0:00:40"],
    ]
    assert out.splitlines()[-2].startswith("0:01:40 left") and out.splitlines()[-1].startswith("2 of 8 runs")


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags, words",
    [
        (["--only", "8"], "--only"),
        (["--jobs", "2"], "--jobs"),
        (["--seeds", "x"], "--seeds"),
        (["--gpus", "0.5"], "--gpus"),
        (["--gpus", "2", "--ray", "local"], "--gpus"),
        (["--", "--seed", "3"], "--seed"),
        (["--", "--batch-size", "17"], "--batch-size"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(flags, words, tmp_path):
    flags, more = (flags, []) if flags[0] != "--" else ([], flags[1:])
    process = study(tmp_path, *flags, more=more)
    out, err = process.communicate()
    assert process.returncode == 2 and out == "" and err.count("\n") == 1 and words in err


def test_without_ray_the_fix_is_named(tmp_path):
    (tmp_path / "ray.py").write_text("raise ModuleNotFoundError(\"No module named 'ray'\")\n")
    process = study(tmp_path, "--ray", "local", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    out, err = process.communicate()
    assert process.returncode == 2 and out == ""
    assert err == "study.py: error: --ray local: No module named 'ray'; pip install -r requirements-ray.txt\n"
