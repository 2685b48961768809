"""A run that is stopped, killed or damaged goes on to the same end, or says in one line why it cannot."""

import os
import signal
import subprocess
import sys
import time

from common import run as loop
from common.arguments import parse
from common.checkpoint import lock
from common.cli import UserError
from common.data import Dataset
from common.results import read_csv, read_record
from common.session import tf
from conftest import ROOT
import numpy as np
import pytest
from test_run import Brightness, images
from test_scripts import SMALL, files, start

import alexnet1

FACTS = {"device": "CPU", "device_name": "p", "threads": 2, "tf32": False, "xla": False, "deterministic": False}


class StopAfter:
    """A Stop that asks for the end at the n-th look at it."""

    def __init__(self, looks):
        self.looks = looks

    @property
    def signal(self):
        self.looks -= 1
        return signal.SIGTERM if self.looks < 0 else None


def train(folder, looks=10**9, facts=FACTS, flags=()):
    """A run of three epochs of four iterations, in this process; returns its exit code, 0 for a run to the end."""
    args = parse("x.py", None, ["--epochs", "3", "--batch-size", "2", "--results-dir", str(folder), "--trace", *flags])
    levels = [0, 10, 20, 30, 40, 50, 60, 70]
    dataset = Dataset(images(*levels), np.zeros(8, np.uint8), images(5, 25), np.zeros(2, np.uint8), None)
    try:
        run_files = loop.Files(folder, "x", args)
        loop.train(
            Brightness(2.0), alexnet1.naive_loss, lambda epoch: 0.1, dataset, args, run_files, facts, StopAfter(looks)
        )
    except SystemExit as stop:
        return stop.code
    return 0


def curve(folder):
    """What must not depend on interruptions: the rows without their seconds, and the trace."""
    return [row._replace(seconds=None) for row in read_csv(folder / "x.csv")], (folder / "trace" / "x.csv").read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert train(folder) == 0
    return curve(folder)


@pytest.mark.parametrize("looks", [0, 1, 2, 3, 5, 7, 11, 17])
def test_a_run_stopped_anywhere_ends_the_same(looks, tmp_path, capsys, whole):
    codes = []
    while not codes or codes[-1]:
        codes.append(train(tmp_path, looks=max(looks, 2 if codes else 0)))
        assert len(codes) < 50
    assert codes[0] == 128 + signal.SIGTERM and codes[-1] == 0
    assert curve(tmp_path) == whole
    assert read_record(tmp_path / "x.json")["complete"] is True
    assert "the same command goes on there" in capsys.readouterr().out
    assert not (tmp_path / ".checkpoints" / "x").exists() and not list(tmp_path.glob("*.old*"))


def stop_twice(folder):
    """A run stopped twice, so that there are two checkpoints; returns their folder."""
    for _ in range(2):
        assert train(folder, looks=3) == 143
    checkpoints = folder / ".checkpoints" / "x"
    assert len(list(checkpoints.glob("*.index"))) == 2
    return checkpoints


def newest(checkpoints, suffix):
    return max(checkpoints.glob(f"*.{suffix}*"), key=lambda path: int(path.name.split(".")[0][5:]))


@pytest.mark.parametrize("suffix", ["index", "data"])
@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "removed"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(suffix, damage, tmp_path, capsys, whole):
    path = newest(stop_twice(tmp_path), suffix)
    content = path.read_bytes()
    if damage == "removed":
        path.unlink()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
        path.write_bytes({"cut": content[:middle], "empty": b"", "flipped": flipped}[damage])
    assert train(tmp_path) == 0
    assert curve(tmp_path) == whole
    if (suffix, damage) != ("index", "removed"):  # without its index it was never complete
        assert "damaged, trying the one before" in capsys.readouterr().out


def test_without_a_whole_checkpoint_nothing_is_overwritten(tmp_path):
    train(tmp_path, looks=8)
    for path in (tmp_path / ".checkpoints" / "x").glob("*.index"):
        path.write_bytes(b"")
    before = (tmp_path / "x.csv").read_bytes()
    with pytest.raises(UserError, match="no checkpoint is whole; --restart"):
        train(tmp_path)
    assert (tmp_path / "x.csv").read_bytes() == before
    assert train(tmp_path, flags=["--restart"]) == 0
    assert (tmp_path / "x.csv.old1").read_bytes() == before


@pytest.mark.parametrize("key, value", [("xla", True), ("threads", 1), ("device", "GPU"), ("deterministic", True)])
def test_a_run_does_not_go_on_under_other_conditions(key, value, tmp_path, whole):
    train(tmp_path, looks=3)
    with pytest.raises(UserError, match=f"x: began with {key} .*now it is {value}.*--restart"):
        train(tmp_path, facts={**FACTS, key: value})
    assert train(tmp_path) == 0 and curve(tmp_path) == whole


def test_a_checkpoint_on_request_and_one_that_is_kept(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(loop.Checkpoints, "save", lambda self, step, state: saved.append(step))
    monkeypatch.setattr("common.training.time.perf_counter", iter(range(0, 10**9, 61)).__next__)
    assert train(tmp_path, flags=["--save-minutes", "1"]) == 0
    assert saved == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]  # each iteration, each epoch
    monkeypatch.undo()
    assert train(tmp_path, flags=["--restart", "--keep-checkpoint"]) == 0
    assert list((tmp_path / ".checkpoints" / "x").glob("*.index"))


def test_a_checkpoint_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    train(tmp_path, looks=3)
    checkpoints = tmp_path / ".checkpoints" / "x"
    monkeypatch.setattr(loop.Checkpoints, "steps", lambda self: [])
    with pytest.raises(UserError, match="cannot write the checkpoint"):
        train(tmp_path, looks=3)
    assert checkpoints.exists()


def test_a_device_out_of_memory_is_one_line(tmp_path, monkeypatch):
    def exhausted(self):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    train(tmp_path, looks=7)
    before = (tmp_path / "x.csv").read_bytes()
    monkeypatch.setattr(loop.Training, "train_epoch", exhausted)
    with pytest.raises(UserError, match="the CPU is out of memory: lower --batch-size or --test-size"):
        train(tmp_path)
    assert (tmp_path / "x.csv").read_bytes() == before


def test_two_runs_with_the_same_files(tmp_path):
    code = "import sys; from pathlib import Path; from common.checkpoint import lock; lock(Path(sys.argv[1]), 'x')"
    command = [sys.executable, "-c", f"{code}; print(flush=True); sys.stdin.read()", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as other:
        other.stdout.readline()
        with pytest.raises(UserError, match="x: another run is writing its files"):
            lock(tmp_path, "x")
        other.kill()  # a lock left by a killed run is not in the way
    lock(tmp_path, "x")


def test_a_script_killed_and_stopped_ends_the_same(tmp_path):
    """SIGKILL at three moments of a real script, then SIGTERM and Ctrl-C: the curve is that of a run left alone."""
    for name in ("alone", "killed"):
        (tmp_path / name).mkdir()
    assert start(6, tmp_path / "alone").returncode == 0
    folder, codes = tmp_path / "killed", []
    command = [sys.executable, str(ROOT / "alexnet6.py"), *SMALL, "--results-dir"]
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen([*command, str(folder)], stdout=subprocess.PIPE, text=True, cwd=folder) as process:
            for line in process.stdout:  # the last line before training, or the first epoch's
                if line.startswith(("float32", "going on", "epoch 1")):
                    time.sleep(1)
                    os.kill(process.pid, number)
                    break
            process.stdout.read()
        codes.append(process.returncode)
    assert set(codes) <= {-9, 143, 130, 0} and codes[0] == -9
    assert start(6, folder).returncode == 0
    alone, killed = ([row._replace(seconds=None) for row in files(tmp_path / name)[0]] for name in ("alone", "killed"))
    assert alone == killed
