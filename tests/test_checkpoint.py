"""A run that is stopped, killed or damaged goes on to the same end, or says in one line why it cannot."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time

from common import checkpoint
from common import run as loop
from common.arguments import parse
from common.checkpoint import bare, lock, what_computes
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
FACTS |= {"precision": "float32", "versions": {"python": "3.13.0"}, "environment": {}}


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
    args = parse("x.py", None, ["--epochs", "3", "--batch-size", "2", "--results-dir", str(folder), *flags])
    levels = [0, 10, 20, 30, 40, 50, 60, 70]
    dataset = Dataset(images(*levels), np.zeros(8, np.uint8), images(5, 25), np.zeros(2, np.uint8), None)
    try:
        files = loop.Files(folder, "x", args)
        loop.train(Brightness(2.0), alexnet1.naive_loss, lambda epoch: 0.1, dataset, files, facts, StopAfter(looks))
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


def test_what_a_kill_leaves_of_deleted_checkpoints_is_none(tmp_path, monkeypatch, whole):
    stop_twice(tmp_path)
    with monkeypatch.context() as killed:
        killed.setattr(
            checkpoint.shutil, "rmtree", lambda folder, **_: [path.unlink() for path in folder.glob("*.data*")]
        )
        checkpoint.Checkpoints(tmp_path / ".checkpoints" / "x", Brightness(2.0)).delete()
    for path in tmp_path.glob("x.*"):
        path.unlink()
    assert train(tmp_path) == 0
    assert curve(tmp_path) == whole


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


def test_a_run_goes_on_elsewhere_and_its_record_says_so(tmp_path, capsys, whole):
    """Another device, processor, number of threads, version, variable: one line, and a stretch of the record each."""
    versions, environment = {"python": "3.10.1"}, {"TF_ENABLE_ONEDNN_OPTS": "0"}
    places = [{}, {"threads": 1}, {"threads": 1, "tf32": True}, {"device": "GPU", "versions": versions}, {}]
    places[-1:] = [{"environment": environment}, {}]
    for place in places[:-1]:
        assert train(tmp_path, looks=4, facts={**FACTS, **place}) == 143
    assert train(tmp_path, facts={**FACTS, **places[-1]}) == 0
    assert curve(tmp_path) == whole
    record = read_record(tmp_path / "x.json")
    stretches = record["stretches"]
    assert len(stretches) == 6
    for stretch, place in zip(stretches, places):
        assert all(stretch[key] == value for key, value in {**FACTS, **place}.items())
        assert stretch["git_commit"] == loop.git_commit() and stretch["despite"] == []
    places = [(stretch["epoch"], stretch["iteration"]) for stretch in stretches]
    assert places[0] == (1, 0) and sorted(set(places)) == places
    assert record["wall_seconds"] == pytest.approx(sum(stretch["seconds"] for stretch in stretches), abs=0.5)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("going on")]
    assert "elsewhere (threads 1, not 2)" in lines[0] and "elsewhere (tf32 True, not False)" in lines[1]
    assert "device GPU, not CPU; threads 2, not 1; tf32 False, not True; python 3.10.1, not 3.13.0" in lines[2]
    assert "; TF_ENABLE_ONEDNN_OPTS 0, not unset)" in lines[3]
    assert "elsewhere (TF_ENABLE_ONEDNN_OPTS unset, not 0)" in lines[4]


def test_a_run_that_goes_on_where_it_was_is_one_stretch(tmp_path, capsys):
    train(tmp_path, looks=3)
    assert train(tmp_path) == 0
    assert len(read_record(tmp_path / "x.json")["stretches"]) == 1 and "elsewhere" not in capsys.readouterr().out


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the modules that compute, in place of them for what_computes."""
    folder = shutil.copytree(checkpoint.__file__.rpartition("/")[0], tmp_path / "common", ignore=lambda *_: {"mnist"})
    monkeypatch.setattr(checkpoint, "__file__", str(folder) + "/checkpoint.py")
    return folder


@pytest.mark.parametrize("name", [*checkpoint.COMPUTING, "NumPy", "TensorFlow"])
def test_a_run_does_not_go_on_with_code_that_computes_otherwise(name, tmp_path, copied, monkeypatch, whole, capsys):
    train(tmp_path, looks=3)
    if name in checkpoint.COMPUTING:
        path = copied / f"{name}.py"
        before = path.read_text("utf-8")
        path.write_text(before + "\nnothing = None\n", "utf-8")
        name = f"common/{name}.py"
    else:
        before = None
        monkeypatch.setattr(*{"NumPy": (np, "__version__", "1.0.0"), "TensorFlow": (tf, "__version__", "1.0.0")}[name])
    with pytest.raises(UserError, match=f"^x: it began with another {name}; .*--despite-changes.*--restart"):
        train(tmp_path)
    assert train(tmp_path, looks=4, flags=["--despite-changes"]) == 143
    if before:  # back again: another change
        path.write_text(before, "utf-8")
        with pytest.raises(UserError, match=f"it began with another {name}"):
            train(tmp_path)
        assert train(tmp_path, flags=["--despite-changes"]) == 0
    else:
        assert train(tmp_path) == 0
    assert curve(tmp_path) == whole
    stretches = read_record(tmp_path / "x.json")["stretches"]
    assert [stretch["despite"] for stretch in stretches] == [[], [name], *[[name]] * bool(before)]


def test_docstrings_comments_and_blank_lines_do_not_compute():
    one = '"""A."""\n\nx = 1  # one\n\n\ndef f():\n    """B.\n\n    C\n    """\n    return "# no comment"\n'
    two = '"""Another."""\nx = 1\ndef f():\n    """D."""\n    # why\n    return "# no comment"\n'
    assert bare(one) == bare(two) == 'x = 1\ndef f():\n    return "# no comment"'
    assert bare(one) != bare(one.replace("1", "2")) and bare(one) != bare(one.replace("no", "a"))
    for number in range(1, 8):
        assert len(what_computes(ROOT / f"alexnet{number}.py")) == len(checkpoint.COMPUTING) + 3


def test_every_module_computes_or_is_known_not_to():
    code = "import alexnet1, alexnet6, sys; print(*(n[7:] for n in sys.modules if n.startswith('common.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    handling = {"arguments", "checkpoint", "cli", "commit", "report", "results", "run"}
    assert set(done.stdout.split()) == handling | set(checkpoint.COMPUTING)


def test_the_same_command_after_restart_is_named_without_it(tmp_path, capsys):
    assert train(tmp_path, looks=7, flags=["--restart"]) == 143
    assert "the same command without --restart goes on there" in capsys.readouterr().out
    train(tmp_path, looks=7)
    assert "the same command goes on there" in capsys.readouterr().out


def test_checkpoints_by_the_clock(tmp_path, monkeypatch, whole):
    """One each time that five minutes have passed, inside an epoch or at its end; none at the very end."""
    saved, clock = [], iter(range(0, 10**9, 25)).__next__
    monkeypatch.setattr(loop.Checkpoints, "save", lambda self, step, state: saved.append(step))
    monkeypatch.setattr("common.training.time.perf_counter", clock)
    assert train(tmp_path) == 0
    five = saved.copy()
    assert train(tmp_path, flags=["--restart", "--save-minutes", "0"]) == 0
    every = saved[len(five) :]
    assert every == [step for step in range(1, 15) if step != 15]  # each iteration and each epoch but the last
    assert 1 <= len(five) < len(every) and set(five) < set(every)


def test_rows_after_the_last_checkpoint_are_computed_again(tmp_path, monkeypatch, whole):
    class Killed(Exception):
        pass

    def killed(self, state, facts, complete=False):
        write(self, state, facts, complete)
        if len(state.rows) == 2:
            raise Killed

    train(tmp_path, looks=3)  # its checkpoint is the last one before the kill
    write = loop.Files.write
    monkeypatch.setattr(loop.Files, "write", killed)
    with pytest.raises(Killed):
        train(tmp_path)
    monkeypatch.undo()
    assert len(read_csv(tmp_path / "x.csv")) == 2
    assert train(tmp_path) == 0 and curve(tmp_path) == whole


def test_the_weights_are_kept_unless_told_otherwise(tmp_path, capsys):
    assert train(tmp_path) == 0
    weights = tmp_path / "weights" / "x"
    assert f"its weights are in {weights}.*" in capsys.readouterr().out
    network = Brightness(0.0)
    tf.train.Checkpoint(network=network).read(str(weights)).expect_partial()
    assert 0 < network.row.numpy()[0, 0] != 2.0
    assert train(tmp_path, flags=["--restart", "--no-weights"]) == 0
    assert {path.suffix for path in (tmp_path / "weights").iterdir()} == {".old1"}
    assert "its weights" not in capsys.readouterr().out


def test_what_a_complete_run_does_not_have_is_named(tmp_path):
    def missing(*flags):
        args = parse("x.py", None, ["--results-dir", str(tmp_path), *flags])
        return list(loop.Files(tmp_path, "x", args).missing())

    train(tmp_path, facts={**FACTS, "tf32": True})
    assert missing() == missing("--device", "cpu") == []
    assert missing("--device", "gpu:1") == ["it did not run with --device gpu:1"]
    assert missing("--no-tf32", "--xla") == ["it ran without --no-tf32", "it ran without --xla"]
    shutil.rmtree(tmp_path / "weights")
    shutil.rmtree(tmp_path / "trace")
    assert missing() == ["it has no trace", "its weights are not here"] and missing("--no-weights") == missing()[:1]


def test_a_checkpoint_that_cannot_be_written_is_one_line_at_once(tmp_path, monkeypatch):
    train(tmp_path, looks=3)
    checkpoints = tmp_path / ".checkpoints" / "x"

    def full(self, path, *_):
        raise tf.errors.ResourceExhaustedError(None, None, f"{path}; No space left on device")

    monkeypatch.setattr(tf.train.Checkpoint, "write", full)
    with pytest.raises(UserError, match=r"step-\d+: cannot be written \(No space left on device\); make room"):
        train(tmp_path, flags=["--save-minutes", "0"])
    assert len(list(checkpoints.glob("*.index"))) == 1 and not (tmp_path / "x.csv").exists()  # after one iteration


def test_a_disk_without_room_is_noticed_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: argparse.Namespace(free=79))
    with pytest.raises(UserError, match="0 MB are free, a run's checkpoints take 0; make room"):
        train(tmp_path)  # its network has 40 bytes
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: argparse.Namespace(free=80))
    assert train(tmp_path) == 0


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


@pytest.mark.slow
def test_a_closing_terminal_stops_a_run_and_two_hangups_do_not_kill_it(tmp_path):
    command = [
        sys.executable,
        "-u",
        str(ROOT / "alexnet6.py"),
        *SMALL,
        "--results-dir",
        str(tmp_path),
        "--epochs",
        "90",
    ]
    for prefix, code in ([], 129), (["nohup"], 143):
        process = subprocess.Popen([*prefix, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        epochs = (line for line in process.stdout if line.startswith("epoch"))
        next(epochs)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGHUP)
        if prefix:  # which ignores them
            assert next(epochs) and next(epochs)
            process.send_signal(signal.SIGTERM)
        else:
            process.stdout.close()  # the terminal has gone
        process.communicate()
        assert process.returncode == code
    assert list((tmp_path / ".checkpoints").glob("*/*.index")) and len(list(tmp_path.glob("*.csv"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.4, 0.8, 1.6])
def test_ctrl_c_while_tensorflow_is_imported_is_quiet(seconds, tmp_path):
    command = [sys.executable, str(ROOT / "alexnet1.py"), *SMALL, "--results-dir", str(tmp_path), "--epochs", "90"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    if "float32" not in out:  # else the machine was fast
        assert process.returncode in (130, -signal.SIGINT) and out == err == ""


@pytest.mark.slow
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
