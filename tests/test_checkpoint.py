"""A run that is stopped, killed or damaged resumes to the same end, or says in one line why it cannot."""

import argparse
import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

from common import checkpoint, fingerprint
from common import run as loop
from common.arguments import parse
from common.checkpoint import lock
from common.cli import SIGNALS, STOPPING, UserError, user_errors
from common.data import Dataset
from common.fingerprint import COMPUTING, code_fingerprint, strip_comments
from common.results import read_csv, read_record
from common.tensorflow import tf
from conftest import ROOT, common_imports
from hypothesis import HealthCheck, given, settings, strategies
import numpy as np
import pytest
from test_run import Brightness, images
from test_scripts import SMALL, files, start

import alexnet1

FACTS = {"device": "CPU", "device_name": "p", "threads": 2, "tf32": False, "xla": False, "deterministic": False}
FACTS |= {"precision": "float32", "versions": {"python": "3.13.0"}, "environment": {}}


class StopAfter:
    """A Stop that asks the run to stop from the n-th read of its signal on."""

    def __init__(self, reads):
        self.reads = reads

    @property
    def signal(self):
        self.reads -= 1
        return signal.SIGTERM if self.reads < 0 else None


def train(folder, reads=10**9, facts=FACTS, flags=(), name="x", network=None):
    """A run of three epochs of four iterations in this process; returns its exit code, 0 if it is complete."""
    args = parse("x.py", None, ["--epochs", "3", "--batch-size", "2", "--results-dir", str(folder), *flags])
    levels = [0, 10, 20, 30, 40, 50, 60, 70]
    dataset = Dataset(images(*levels), np.zeros(8, np.uint8), images(5, 25), np.zeros(2, np.uint8), None)
    try:
        files = loop.Files(folder, name, args)
        files.prepare_folders()
        loop.train(
            network or Brightness(2.0), alexnet1.naive_loss, lambda epoch: 0.1, dataset, files, facts, StopAfter(reads)
        )
    except SystemExit as stop:
        return stop.code
    return 0


def curve(folder):
    """What must not depend on interruptions: the rows without their seconds, and the trace."""
    return [row._replace(seconds=None) for row in read_csv(folder / "x.csv")], (folder / "trace" / "x.csv").read_text()


@pytest.fixture(scope="module", autouse=True)
def eager():
    """Step by step: two hundred short runs would spend half of their time on tracing their functions."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert train(folder) == 0
    return curve(folder)


@pytest.mark.parametrize("reads", [0, 1, 2, 3, 5, 7, 11, 17])
def test_a_run_stopped_anywhere_ends_the_same(reads, tmp_path, capsys, uninterrupted):
    codes = []
    while not codes or codes[-1]:
        codes.append(train(tmp_path, reads=max(reads, 2 if codes else 0)))
        assert len(codes) < 50
    assert codes[0] == 128 + signal.SIGTERM and codes[-1] == 0
    assert curve(tmp_path) == uninterrupted
    assert read_record(tmp_path / "x.json")["complete"] is True
    assert "the same command resumes there" in capsys.readouterr().out
    assert not list((tmp_path / ".checkpoints").iterdir()) and not list(tmp_path.rglob("*.old*"))


def stopped(folder, name="x"):
    """The checkpoint of a run stopped in its second epoch."""
    assert train(folder, reads=7) == 143
    return folder / ".checkpoints" / f"{name}.npz"


def test_the_state_file_is_read_without_tensorflow_and_becomes_the_weights(tmp_path):
    with np.load(stopped(tmp_path)) as file:
        assert set(file) == {"Variable", "run"} and file["Variable"].shape == (1, 10)
        assert len(json.loads(file["run"].item())["state"]["rows"]) == 1
    assert train(tmp_path) == 0
    assert {path.name for path in (tmp_path / ".checkpoints").iterdir()} == set()
    arrays, kept = checkpoint.load(tmp_path / "weights" / "x.npz")
    network = Brightness(2.0)
    checkpoint.restore(network, arrays, tmp_path)
    assert 0 < network.row.numpy()[0, 0] != 2.0 and len(kept["state"]["rows"]) == 3


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(strategies.data())
def test_damage_is_found_or_harmless(tmp_path_factory, stopped_bytes, choose):
    """A cut, or one changed byte: an error that says damaged, or exactly the same content."""
    content, arrays, kept = stopped_bytes
    at = choose.draw(strategies.integers(0, len(content) - 1))
    change = choose.draw(strategies.integers(0, 255))
    path = tmp_path_factory.mktemp("damage") / "x.npz"
    path.write_bytes(content[:at] + (bytes([content[at] ^ change]) + content[at + 1 :] if change else b""))
    try:
        found, run = checkpoint.load(path)
    except UserError as error:
        assert "damaged" in str(error) and "--restart, which moves it aside" in str(error)
    else:
        assert run == kept and all(np.array_equal(found[name], arrays[name]) for name in {*found, *arrays})


@pytest.fixture(scope="module")
def stopped_bytes(tmp_path_factory):
    path = stopped(tmp_path_factory.mktemp("stopped"))
    return path.read_bytes(), *checkpoint.load(path)


def test_a_damaged_checkpoint_is_refused_and_restart_deletes_nothing(tmp_path, uninterrupted):
    path = stopped(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.*") if file.is_file()}
    with pytest.raises(UserError, match=r"x\.npz: damaged .*--restart, which moves it aside"):
        train(tmp_path)
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*.*") if file.is_file()}
    (tmp_path / "trace" / "x.csv.old1").touch()  # so that 1 is taken
    assert train(tmp_path, flags=["--restart"]) == 0
    assert curve(tmp_path) == uninterrupted
    assert all(file.with_name(f"{file.name}.old2").read_bytes() == content for file, content in before.items())


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_a_temporarily_unreadable_checkpoint_is_left_alone(number, tmp_path, monkeypatch, uninterrupted):
    path = stopped(tmp_path)

    def fails(self):
        raise OSError(number, os.strerror(number), str(self))

    with monkeypatch.context() as failing:
        failing.setattr(type(path), "read_bytes", fails)
        with pytest.raises(UserError, match=f"{os.strerror(number)}; nothing was changed") as error:
            train(tmp_path)
    assert "damaged" not in str(error.value) and "restart" not in str(error.value)
    assert train(tmp_path) == 0 and curve(tmp_path) == uninterrupted


def test_out_of_memory_is_not_reported_as_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "load", lambda *_: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        checkpoint.load(stopped(tmp_path))


@pytest.mark.parametrize("names", [["x.csv"], ["x.json"], ["x.csv", "x.json"], ["trace/x.csv"]], ids=str)
@pytest.mark.parametrize("state", ["stopped", "complete"])
def test_a_damaged_curve_or_record_is_written_again_from_the_state(state, names, tmp_path, uninterrupted):
    train(tmp_path, reads=7 if state == "stopped" else 10**9)
    files = loop.Files(tmp_path, "x", parse("x.py", None, ["--epochs", "3"]))
    for name in names:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-3])
    assert files.complete() == (state == "complete" and names == ["trace/x.csv"])  # a trace is never read back
    assert train(tmp_path) == 0
    assert curve(tmp_path) == uninterrupted and files.complete()


@pytest.mark.parametrize("name", ["x.csv", "x.json"])
def test_without_a_state_file_an_unreadable_curve_or_record_is_refused(name, tmp_path):
    assert train(tmp_path, flags=["--no-weights"]) == 0
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-3])
    with pytest.raises(UserError, match=f"{name}.*restore it from git"):
        loop.Files(tmp_path, "x", parse("x.py", None, ["--epochs", "3"])).complete()


def test_the_state_of_another_run_is_refused(tmp_path):
    path = stopped(tmp_path)
    path.rename(path.with_name("y.npz"))
    with pytest.raises(UserError, match=r"y\.npz: the state of x, not of y; move it elsewhere"):
        train(tmp_path, name="y")
    path.with_name("y.npz").rename(path)
    for name, words in {
        "bias": "the variables of another network",
        "Variable": "two variables have the same name",
    }.items():
        network = Brightness(2.0)
        network.bias = tf.Variable(0.0, name=name)
        with pytest.raises(UserError, match=words):
            train(tmp_path, network=network)


def test_a_checkpoint_in_tensorflows_format_is_refused_and_restart_moves_it(tmp_path, uninterrupted):
    old = tmp_path / ".checkpoints" / "x"
    old.mkdir(parents=True)
    (old / "step-3 (copy).index").touch()
    with pytest.raises(UserError, match="in TensorFlow's format. Finish the run with commit d22d2a0"):
        train(tmp_path)
    assert train(tmp_path, flags=["--restart"]) == 0 and curve(tmp_path) == uninterrupted
    assert (tmp_path / ".checkpoints" / "x.old1" / "step-3 (copy).index").exists()


def killed_at(monkeypatch, number):
    """Kill a run when it replaces its number-th file, counted from 0."""

    class Killed(BaseException):
        pass

    counter, replace = itertools.count(), os.replace

    def replaced(source, target):
        if next(counter) == number:
            raise Killed
        replace(source, target)

    monkeypatch.setattr("common.results.os.replace", replaced)
    return Killed


@pytest.mark.parametrize("number", range(13))
def test_a_kill_at_any_file_loses_nothing(number, tmp_path, monkeypatch, uninterrupted):
    """Curve, trace and record of three epochs, the weights, and the three of the complete run."""
    train(tmp_path, reads=3)
    (tmp_path / ".checkpoints" / "x.npz.part").touch()  # of an earlier kill
    with monkeypatch.context() as killing, pytest.raises(killed_at(killing, number)):
        train(tmp_path)
    assert (read_record(tmp_path / "x.json")["complete"] if (tmp_path / "x.json").exists() else False) is False
    assert train(tmp_path) == 0 and curve(tmp_path) == uninterrupted
    assert len(read_record(tmp_path / "x.json")["stretches"]) == 1
    assert not list(tmp_path.rglob("*.part")) and not list(tmp_path.rglob("*.old*"))


def test_a_run_complete_except_for_its_record_keeps_its_facts(tmp_path, monkeypatch):
    with monkeypatch.context() as killing, pytest.raises(killed_at(killing, 12)):
        train(tmp_path)
    assert train(tmp_path, facts={**FACTS, "device": "GPU"}) == 0
    assert read_record(tmp_path / "x.json")["device"] == "CPU"


def test_a_run_resumes_elsewhere_and_its_record_says_so(tmp_path, capsys, uninterrupted):
    """A change of device, processor, threads, version or variable: one line and one segment in the record each."""
    versions, environment = {"python": "3.10.1"}, {"TF_ENABLE_ONEDNN_OPTS": "0"}
    places = [{}, {"threads": 1}, {"threads": 1, "tf32": True}, {"device": "GPU", "versions": versions}, {}]
    places[-1:] = [{"environment": environment}, {}]
    for place in places[:-1]:
        assert train(tmp_path, reads=3, facts={**FACTS, **place}) == 143
    assert train(tmp_path, facts={**FACTS, **places[-1]}) == 0
    assert curve(tmp_path) == uninterrupted
    record = read_record(tmp_path / "x.json")
    stretches = record["stretches"]
    assert len(stretches) == 6
    for stretch, place in zip(stretches, places):
        assert all(stretch[key] == value for key, value in {**FACTS, **place}.items())
        assert stretch["git_commit"] == loop.git_commit() and stretch["despite"] == []
    places = [(stretch["epoch"], stretch["iteration"]) for stretch in stretches]
    assert places[0] == (1, 0) and sorted(set(places)) == places
    assert record["wall_seconds"] == pytest.approx(sum(stretch["seconds"] for stretch in stretches), abs=0.5)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("resuming")]
    assert "elsewhere (threads 1, not 2)" in lines[0] and "elsewhere (tf32 True, not False)" in lines[1]
    assert "device GPU, not CPU; threads 2, not 1; tf32 False, not True; python 3.10.1, not 3.13.0" in lines[2]
    assert "; TF_ENABLE_ONEDNN_OPTS 0, not unset)" in lines[3]
    assert "elsewhere (TF_ENABLE_ONEDNN_OPTS unset, not 0)" in lines[4]


def test_a_run_that_resumes_on_the_same_machine_has_one_segment(tmp_path, capsys):
    train(tmp_path, reads=3)
    assert train(tmp_path) == 0
    assert len(read_record(tmp_path / "x.json")["stretches"]) == 1 and "elsewhere" not in capsys.readouterr().out


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of common/, which code_fingerprint reads instead."""
    folder = shutil.copytree(fingerprint.__file__.rpartition("/")[0], tmp_path / "common", ignore=lambda *_: {"mnist"})
    monkeypatch.setattr(fingerprint, "__file__", str(folder) + "/fingerprint.py")
    return folder


CODE_CHANGES = {
    "input": ("default_rng([seed, epoch])", "default_rng([epoch, seed])"),
    "lrn": ("range(2 * radius + 1)", "range(2 * radius)"),
    "step": ("SeedSequence([seed, epoch, iteration])", "SeedSequence([seed, iteration, epoch])"),
}


@pytest.mark.parametrize("name", [*CODE_CHANGES, "NumPy", "TensorFlow"])
def test_a_run_does_not_resume_with_changed_code(name, tmp_path, copied, monkeypatch, uninterrupted, capsys):
    train(tmp_path, reads=3)
    if name in CODE_CHANGES:
        path, (old, new) = copied / f"{name}.py", CODE_CHANGES[name]
        before = path.read_text("utf-8")
        assert old in before
        path.write_text(before.replace(old, new), "utf-8")
        name = f"common/{name}.py"
    else:
        before = None
        monkeypatch.setattr(*{"NumPy": (np, "__version__", "1.0.0"), "TensorFlow": (tf, "__version__", "1.0.0")}[name])
    with pytest.raises(UserError, match=f"^x began with a different {name}. .*--despite-changes.*--restart"):
        train(tmp_path)
    assert train(tmp_path, reads=4, flags=["--despite-changes"]) == 143
    if before:  # undoing it is another change
        path.write_text(before, "utf-8")
        with pytest.raises(UserError, match=f"began with a different {name}"):
            train(tmp_path)
        assert train(tmp_path, flags=["--despite-changes"]) == 0
    else:
        assert train(tmp_path) == 0
    assert curve(tmp_path) == uninterrupted
    stretches = read_record(tmp_path / "x.json")["stretches"]
    assert [stretch["despite"] for stretch in stretches] == [[], [name], *[[name]] * bool(before)]


def test_changed_messages_do_not_stop_a_resume(tmp_path, copied, uninterrupted):
    train(tmp_path, reads=3)
    messages = {"training": "the weights are NaN", "session": "does not round to bfloat16", "data": "instead of 28x28"}
    for name, message in messages.items():
        path = copied / f"{name}.py"
        before = path.read_text("utf-8")
        assert message in before
        path.write_text(before.replace(message, "Oh."), "utf-8")
    assert train(tmp_path) == 0
    assert curve(tmp_path) == uninterrupted


def test_docstrings_comments_and_blank_lines_are_not_fingerprinted():
    one = '"""A."""\n\nx = 1  # one\n\n\ndef f():\n    """B.\n\n    C\n    """\n    return "# no comment"\n'
    two = '"""Another."""\nx = 1\ndef f():\n    """D."""\n    # why\n    return "# no comment"\n'
    assert strip_comments(one) == strip_comments(two) == 'x = 1\ndef f():\n    return "# no comment"'
    assert strip_comments(one) not in (strip_comments(one.replace("1", "2")), strip_comments(one.replace("no", "a")))
    for number in range(1, 8):
        assert len(code_fingerprint(ROOT / f"alexnet{number}.py")) == len(COMPUTING) + 3


def test_every_module_is_fingerprinted_or_known_not_to_matter():
    found, waiting = set(), [ROOT / "alexnet1.py", ROOT / "alexnet6.py"]
    while waiting:
        new = common_imports(waiting.pop()) - found
        found |= new
        waiting += [ROOT / "common" / f"{name}.py" for name in new]
    handling = {"arguments", "checkpoint", "cli", "commit", "data", "fingerprint", "machine", "report", "results"}
    handling |= {"run", "session", "tensorflow", "training"}
    assert found == handling | set(COMPUTING)


def test_the_command_to_resume_leaves_restart_out(tmp_path, capsys):
    assert train(tmp_path, reads=7, flags=["--restart"]) == 143
    assert "the same command without --restart resumes there" in capsys.readouterr().out
    train(tmp_path, reads=7)
    assert "the same command resumes there" in capsys.readouterr().out


def test_checkpoints_by_the_clock(tmp_path, monkeypatch, uninterrupted):
    """One whenever five minutes have passed, within or after an epoch, but none after the last."""
    saved, clock = [], iter(range(0, 10**9, 25)).__next__

    def note(path, network, kept):
        if path.parent.name == ".checkpoints":
            saved.append((len(kept["state"]["rows"]), len(kept["state"]["batches_done"])))
        save(path, network, kept)

    save = loop.save
    monkeypatch.setattr(loop, "save", note)
    monkeypatch.setattr("common.training.time.perf_counter", clock)
    assert train(tmp_path) == 0
    five = saved.copy()
    assert train(tmp_path, flags=["--restart", "--save-minutes", "0"]) == 0
    every = saved[len(five) :]
    everywhere = [(rows, batches) for rows in range(3) for batches in range(5)]
    assert every == everywhere[1:]  # neither at the very start nor at the very end
    assert 1 <= len(five) < len(every) and set(five) < set(every)


def test_no_weights_flag_keeps_none(tmp_path, capsys):
    assert train(tmp_path) == 0
    assert f"its weights are in {tmp_path / 'weights' / 'x.npz'}" in capsys.readouterr().out
    assert train(tmp_path, flags=["--restart", "--no-weights"]) == 0
    assert {path.suffix for path in (tmp_path / "weights").iterdir()} == {".old1"}
    assert "its weights" not in capsys.readouterr().out


def test_unmet_flags_of_a_complete_run_are_named(tmp_path):
    def missing(*flags):
        args = parse("x.py", None, ["--results-dir", str(tmp_path), *flags])
        return list(loop.Files(tmp_path, "x", args).unmet_flags())

    train(tmp_path, facts={**FACTS, "tf32": True})
    assert missing() == missing("--device", "cpu") == []
    assert missing("--device", "gpu:1") == ["it did not run with --device gpu:1"]
    assert missing("--no-tf32", "--xla") == ["it ran without --no-tf32", "it ran without --xla"]
    weights = tmp_path / "weights" / "x.npz"
    size = weights.stat().st_size
    weights.write_bytes(weights.read_bytes()[:58])
    assert missing() == [f"{weights} has 58 of the {size} bytes that were written"]
    shutil.rmtree(tmp_path / "weights")
    shutil.rmtree(tmp_path / "trace")
    assert missing() == ["it has no trace", "its weights are missing"] and missing("--no-weights") == missing()[:1]


@pytest.mark.parametrize("name", ["x.csv", "trace/x.csv", "x.json", "weights/x.npz", ".checkpoints/x.npz"])
def test_an_unwritable_file_is_named_and_the_state_is_saved(name, tmp_path, monkeypatch, uninterrupted, capsys):
    """The disk fills up after the first step: what can be saved is saved, and the run resumes from there."""
    train(tmp_path, reads=3)
    before, steps = (tmp_path / ".checkpoints" / "x.npz").read_bytes(), []
    opened = open

    def full(path, mode="r", **options):
        if mode == "wb" and path == tmp_path / f"{name}.part":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return opened(path, mode, **options)

    with monkeypatch.context() as filling, pytest.raises(SystemExit) as end, user_errors():
        filling.setattr("common.results.open", full, raising=False)
        train(tmp_path, flags=["--save-minutes", "0" if "checkpoints" in name else "5"])
    assert end.value.code == 2
    assert f"{tmp_path / name}: No space left on device; make" in capsys.readouterr().err
    after = (tmp_path / ".checkpoints" / "x.npz").read_bytes()
    assert (after == before) == (name == ".checkpoints/x.npz") and not list(tmp_path.rglob("*.part"))
    train_epoch = loop.Training.train_epoch
    monkeypatch.setattr(
        loop.Training, "train_epoch", lambda self: steps.append(len(self.state.rows)) or train_epoch(self)
    )
    assert train(tmp_path) == 0 and curve(tmp_path) == uninterrupted
    assert steps == {"weights/x.npz": [], ".checkpoints/x.npz": [0, 1, 2]}.get(name, [1, 2])


@pytest.mark.parametrize("name", ["trace", "weights", ".checkpoints"])
def test_an_unwritable_folder_is_named_before_the_first_step(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=f"{name}: (File exists|Not a directory); make it a folder that"):
        train(tmp_path)
    assert not (tmp_path / "x.csv").exists()


def test_a_full_disk_is_noticed_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: argparse.Namespace(free=79))
    with pytest.raises(UserError, match="0 MB are free, a run's checkpoints take 0; make room"):
        train(tmp_path)  # its network has 40 bytes
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: argparse.Namespace(free=80))
    assert train(tmp_path) == 0


@pytest.mark.parametrize("where", ["network", "restore", "step"])
@pytest.mark.parametrize("kind", [MemoryError, tf.errors.ResourceExhaustedError])
def test_out_of_memory_is_one_line(kind, where, tmp_path, monkeypatch, capsys):
    def exhausted(*_):
        raise kind() if kind is MemoryError else kind(None, None, "OOM when allocating tensor")

    network = Brightness
    if where == "network":
        network = type("Brightness", (Brightness,), {"__init__": exhausted})
    else:
        place = {"step": (loop.Training, "train_epoch"), "restore": (loop, "load")}[where]
        monkeypatch.setattr(*place, exhausted)
    assert start_here(tmp_path, monkeypatch, network) == 2
    assert capsys.readouterr().err.startswith("x.py: error: p is out of memory: lower --batch-size")


def start_here(folder, monkeypatch, network=Brightness, flags=(), session=lambda *_, **__: ("/CPU:0", FACTS)):
    """Run this file as a script, in this process and without a session; returns its exit code."""
    sizes = ["--train-size", "4", "--batch-size", "2", "--test-size", "2", "--epochs", "1"]
    monkeypatch.setattr(sys, "argv", ["x.py", "--results-dir", str(folder), *sizes, *flags])
    monkeypatch.setattr(loop, "open_session", session)
    monkeypatch.setattr(loop, "banner", lambda *_: "")
    one = type("One", (network,), {"__init__": lambda self: network.__init__(self, 2.0), "__module__": __name__})
    try:
        loop.run(one, {"naive": alexnet1.naive_loss}, lambda epoch: 0.1)
    except SystemExit as end:
        return end.code
    return 0


def test_a_second_start_is_refused(tmp_path):
    code = (
        "import sys; from pathlib import Path; from common.checkpoint import lock\nwith lock(Path(sys.argv[1]), 'x'):"
    )
    command = [sys.executable, "-c", f"{code} print(flush=True); sys.stdin.read()", str(tmp_path / "x.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as other:
        other.stdout.readline()
        with pytest.raises(UserError, match="x: another run is writing its files"), lock(tmp_path / "x.lock", "x"):
            pass
        other.kill()  # the lock of a killed run is free
    for _ in range(2):  # so is one that this process has released
        with lock(tmp_path / "x.lock", "x"):
            pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_a_warning(number, tmp_path, monkeypatch, capsys):
    def fails(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", fails)
    assert start_here(tmp_path, monkeypatch) == 0
    assert (
        f"{tmp_path / '.checkpoints'}: no locks on this file system; start test_checkpoint-" in capsys.readouterr().out
    )


def test_a_run_that_another_completes_meanwhile_is_left_alone(tmp_path, monkeypatch, capsys):
    """The other run ends after this one has checked its files and before it locks them."""

    def ends(*_, **__):
        assert start_here(tmp_path, monkeypatch) == 0
        return "/CPU:0", FACTS

    assert start_here(tmp_path, monkeypatch, session=ends) == 0
    out = capsys.readouterr().out
    assert out.count("is complete, its weights") == 1 and out.count("is complete: nothing to do") == 1
    assert not list(tmp_path.rglob("*.old*"))


def test_handlers_and_lock_are_released_when_a_run_ends(tmp_path, monkeypatch):
    """Otherwise an interrupt would end every later cell of a notebook."""
    before = [signal.getsignal(number) for number in SIGNALS]
    assert start_here(tmp_path, monkeypatch) == 0
    monkeypatch.setattr(loop.Training, "train_epoch", lambda self: os.kill(os.getpid(), signal.SIGTERM))
    assert start_here(tmp_path, monkeypatch, flags=["--restart"]) == 143
    assert [signal.getsignal(number) for number in SIGNALS] == before
    monkeypatch.undo()
    assert start_here(tmp_path, monkeypatch) == 0


def test_only_a_second_ctrl_c_quits(tmp_path, monkeypatch, capsys):
    def asked(*numbers):
        def signals(self):
            for number in numbers:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(loop.Training, "train_epoch", signals)
        return start_here(tmp_path, monkeypatch)

    for numbers, code in (
        ([signal.SIGTERM] * 3, 143),
        ([signal.SIGHUP, signal.SIGTERM, signal.SIGINT], 129),
        ([signal.SIGINT, signal.SIGTERM], 130),
    ):
        assert asked(*numbers) == code
        out, err = capsys.readouterr()
        assert "the same command resumes there" in out and err == f"\n{STOPPING}\n"
        next(tmp_path.glob(".checkpoints/*.npz")).unlink()
    assert asked(signal.SIGINT, signal.SIGINT) == 130
    assert not list(tmp_path.glob(".checkpoints/*.npz")) and "resumes" not in capsys.readouterr().out


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
        if prefix:  # nohup ignores them
            assert next(epochs) and next(epochs)
            process.send_signal(signal.SIGTERM)
        else:
            process.stdout.close()  # the terminal is gone
        process.communicate()
        assert process.returncode == code
    assert list((tmp_path / ".checkpoints").glob("*.npz")) and len(list(tmp_path.glob("*.csv"))) == 1


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
    """SIGKILL, SIGTERM and Ctrl-C to a real script: the curve is that of an uninterrupted run."""
    for name in ("alone", "killed"):
        (tmp_path / name).mkdir()
    assert start(6, tmp_path / "alone").returncode == 0
    folder, codes = tmp_path / "killed", []
    command = [sys.executable, str(ROOT / "alexnet6.py"), *SMALL, "--results-dir"]
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen([*command, str(folder)], stdout=subprocess.PIPE, text=True, cwd=folder) as process:
            for line in process.stdout:  # the last line before training, or the first epoch's
                if line.startswith(("float32", "resuming", "epoch 1")):
                    time.sleep(1)
                    os.kill(process.pid, number)
                    break
            process.stdout.read()
        codes.append(process.returncode)
    assert set(codes) <= {-9, 143, 130, 0} and codes[0] == -9
    assert start(6, folder).returncode == 0
    alone, killed = ([row._replace(seconds=None) for row in files(tmp_path / name)[0]] for name in ("alone", "killed"))
    assert alone == killed
