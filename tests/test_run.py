"""The run loop, its files and its names, on a network small enough to follow by hand."""

import argparse
import json
import math
import os
import re
import runpy
import shlex
import subprocess
import sys

from common import commit, data
from common import run as loop
from common.arguments import command, parse, run_name
from common.cli import UserError
from common.data import Dataset
from common.input import shuffled
from common.report import Progress
from common.results import complete, read_csv, read_record
from common.step import LAYERS, dropout_seeds
from common.tensorflow import tf
from common.training import State, Training
from conftest import ROOT
import numpy as np
import pytest

import alexnet1

STRETCH = {"started": "2026-01-01", "seconds": 0.0}


class Brightness(tf.Module):
    """Logits are the mean brightness (0 to 1) times a variable row: white images saturate, black ones do not."""

    def __init__(self, factor):
        super().__init__()
        self.row = tf.Variable([[factor] + [0.0] * 9])

    def __call__(self, images, dropout_seeds, training):
        return dict.fromkeys(LAYERS, tf.reduce_mean(images, [1, 2]) @ self.row)


def images(*levels):
    """uint8 [n, 28, 28], each image of one brightness."""
    return np.repeat(np.array(levels, np.uint8), 784).reshape(-1, 28, 28)


def training(tmp_path, train, test, factor=200.0, epochs=3, batch=2, **more):
    """A complete run on images of these brightnesses, all of class 0: (its Training, rows, record)."""
    dataset = Dataset(
        images(*train), np.zeros(len(train), np.uint8), images(*test), np.zeros(len(test), np.uint8), None
    )
    args = parse("x.py", None, ["--epochs", str(epochs), "--batch-size", str(batch), "--results-dir", str(tmp_path)])
    vars(args).update(more)
    files, state, stop = loop.Files(tmp_path, "x", args), State(stretches=[STRETCH]), argparse.Namespace(signal=None)
    files.prepare_folders()
    result = Training(
        Brightness(factor), alexnet1.naive_loss, lambda epoch: 0.1, dataset, args, state, lambda *_: None, stop
    )
    result.run(lambda: files.write(state, {"experiment": "x"}))
    files.write(state, {"experiment": "x"}, complete=True)
    return result, read_csv(files.csv), json.loads(files.record.read_text(), parse_constant=pytest.fail)


def test_a_finite_run_trains_every_epoch(tmp_path, capsys):
    _, rows, record = training(tmp_path, [0, 10, 20, 30, 40], [0, 0, 50, 60], factor=2.0)
    assert [row.epoch for row in rows] == [1, 2, 3]
    assert all(math.isfinite(row.loss) and row.seconds is not None and row.accuracy == 1 for row in rows)
    assert record["complete"] and record["nan_weights"] is record["nan_cause"] is record["nan_loss_epoch"] is None
    assert "epoch 3/3, loss " in capsys.readouterr().out
    assert rows[0].loss > rows[1].loss > rows[2].loss
    assert rows[0].logit_gap == pytest.approx(2 * 40 / 255, rel=0.3)


def test_nan_weights_end_training_and_fill_the_curve(tmp_path, capsys):
    """One white image among black ones turns the weights NaN in the iteration it is shuffled into."""
    levels = [0] * 9 + [255]
    order = shuffled(0, 0, 10, 2)
    iteration = 1 + int(np.argwhere(order == 9)[0, 0])
    result, rows, record = training(tmp_path, levels, [0, 0, 0, 0], epochs=4)
    assert record["nan_weights"] == result.state.nan_weights == {"epoch": 1, "iteration": iteration}
    assert len(rows) == 4 and all(math.isnan(row.loss) and row.accuracy == 1 for row in rows)
    assert all(row.seconds is None for row in rows) and rows[1].train_loss is None
    assert record["complete"] and record["filled_from_epoch"] == 2 and record["nan_loss_epoch"] == 1
    cause, *others = record["nan_causes"]
    assert cause == record["nan_cause"] and not others  # the evaluation of NaN weights adds nothing
    assert (cause["cause"], cause["image"], cause["label"], cause["iteration"]) == ("log(0)", 9, 0, iteration)
    assert cause["logit_gap"] == pytest.approx(200, rel=0.01)
    out = capsys.readouterr().out
    assert f"epoch 1, iteration {iteration}: the weights are NaN" in out and "log(0)" in out


def test_a_gap_of_ten_thousand_is_called_an_explosion(tmp_path):
    _, _, record = training(tmp_path, [255, 255], [0, 0], factor=2e4, epochs=1)
    assert record["nan_cause"]["cause"] == "explosion" and record["filled_from_epoch"] is None
    _, _, record = training(tmp_path, [255, 255], [0, 0], factor=1e38, epochs=1)
    assert record["nan_cause"]["cause"] == "explosion"


def test_a_nan_evaluation_loss_does_not_stop_training(tmp_path):
    _, rows, record = training(tmp_path, [0, 10, 20, 30], [0, 0, 255, 0])
    assert all(math.isnan(row.loss) and row.accuracy == 1 and row.seconds is not None for row in rows)
    assert all(math.isfinite(row.train_loss) for row in rows)
    assert record["nan_loss_epoch"] == 1 and record["nan_weights"] is None and record["filled_from_epoch"] is None
    assert record["nan_cause"]["iteration"] is None and record["nan_cause"]["image"] == 2
    assert [(cause["epoch"], cause["cause"]) for cause in record["nan_causes"]] == [(n, "log(0)") for n in (1, 2, 3)]


def test_trace_has_every_iteration(tmp_path):
    training(tmp_path, [0, 10, 20, 30, 40], [0, 0])
    lines = (tmp_path / "trace" / "x.csv").read_text().splitlines()
    assert lines[0] == "iteration,train_loss,train_accuracy,logit_gap"
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2", "3", "4", "5", "6"]


def test_without_a_terminal_a_line_after_a_minute_then_every_ten(capsys, monkeypatch):
    clock = iter(range(0, 10**9, 30))  # seconds, a batch each
    monkeypatch.setattr("common.report.time.perf_counter", lambda: now)
    now = next(clock)
    progress = Progress(epochs=2)
    for epoch in 1, 2:
        progress.begin(epoch, images=50, done=0)
        for loss in range(25):
            now = next(clock)
            progress.update(
                images=2, loss=loss, accuracy=0.5, rate=2 / 30, seconds_left=1500 * (3 - epoch) - now % 1500
            )
        progress.end()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "epoch 1/2, 8 %, 0.0667 images/s, loss 1.0 so far, 0:49:00 left"
    assert [line.split(",")[:2] for line in lines[1:]] == [["epoch 1/2", " 88 %"], ["epoch 2/2", " 68 %"]]
    assert all(len(line) <= 80 for line in lines)


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    progress = Progress(epochs=2)
    progress.begin(1, images=4, done=2)
    progress.bar.mininterval = 0
    progress.update(images=2, loss=2302.6, accuracy=0.5, rate=10, seconds_left=61)
    progress.end()
    out, err = capsys.readouterr()
    assert out == "" and "epoch 1/2 100%" in err and "loss 2302.6, accuracy 0.500, 0:01:01 left" in err


def test_tqdm_disable_turns_the_bar_off(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for value, bar in {"1": False, "0": True, "": True}.items():
        monkeypatch.setenv("TQDM_DISABLE", value)
        progress = Progress(epochs=2)
        progress.begin(1, images=4, done=2)
        progress.end()
        assert ("epoch 1/2" in capsys.readouterr().err) == bar


def test_evaluation_in_batches_sums_up(tmp_path):
    trained, _, _ = training(tmp_path, [0, 10], [0, 10, 20, 30, 40], epochs=1)
    trained.evaluation_batch = 2
    loss, accuracy = trained.evaluate()
    assert accuracy == 1
    trained.evaluation_batch = 1000
    assert loss == pytest.approx(trained.evaluate()[0], rel=1e-6)


@pytest.mark.parametrize("number", range(1, 8))
def test_batch_norm_evaluates_the_test_images_at_once(number, tmp_path, monkeypatch):
    """As in the article; the others evaluate in chunks of 200."""
    evaluated = []
    monkeypatch.setattr("sys.argv", ["x.py", "--epochs", "1", "--results-dir", str(tmp_path)])
    monkeypatch.setattr(loop, "open_session", lambda *_, **__: ("/CPU:0", {}))
    monkeypatch.setattr(loop, "banner", lambda *_: "")
    monkeypatch.setattr(loop, "train", lambda *given: evaluated.append(given[-1]))
    monkeypatch.setattr(tf.random, "truncated_normal", lambda *_, **__: tf.zeros([0]))  # instead of 58 million draws
    runpy.run_path(str(ROOT / f"alexnet{number}.py"), run_name="__main__")
    assert evaluated == [1000 if number in (6, 7) else 200]


def test_evaluation_has_no_branch_that_keeps_the_layers(tmp_path):
    trained, _, _ = training(tmp_path, [0, 10], [0, 10], epochs=1)
    element, seeds = np.arange(2, dtype=np.int32), dropout_seeds(0, 0, 0)

    def branches(function, *more):
        graph = function.get_concrete_function(element, seeds, *more).graph
        return [operation for operation in graph.get_operations() if operation.type in ("If", "StatelessIf")]

    assert len(branches(trained.train, tf.constant(0.1))) == 1 and branches(trained.evaluate_batch) == []


def test_shuffle_is_a_permutation_and_a_function_of_seed_and_epoch():
    order = shuffled(3, 7, 100, 30)
    assert order.shape == (3, 30) and len(set(order.ravel().tolist())) == 90
    assert np.array_equal(order, shuffled(3, 7, 100, 30))
    assert not np.array_equal(order, shuffled(3, 8, 100, 30))
    assert not np.array_equal(order, shuffled(4, 7, 100, 30))


def test_dropout_seeds_differ_between_iterations_epochs_runs_and_layers():
    seeds = [dropout_seeds(*key) for key in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0))]
    assert seeds[0].shape == (2, 2) and len({tuple(pair) for seed in seeds for pair in seed.numpy().tolist()}) == 8
    assert np.array_equal(seeds[1], dropout_seeds(0, 0, 1))
    assert all(seed.device.endswith("CPU:0") for seed in seeds)


def name(*flags, digest=None):
    dataset = argparse.Namespace(digest=digest, train_labels=range(60_000))
    return run_name("alexnet2", parse("x.py", None, list(flags)), dataset)


def test_the_name_says_what_differs_from_the_article():
    assert name() == name("--device", "cpu", "--no-tf32", "--results-dir", "elsewhere") == "alexnet2"
    assert name("--epochs", "2", "--train-size", "400", "--seed", "3") == "alexnet2-train400-epochs2-seed3"
    assert name("--loss", "fused", "--precision", "mixed", "--resize", "opencv") == "alexnet2-fused-opencv-mixed"
    assert name("--batch-size", "50", "--test-size", "10", digest="0a1b2c3d") == "alexnet2-data0a1b2c3d-test10-batch50"


def test_the_command_in_the_record_repeats_the_run():
    typed = ["--seed", "3", "--xla", "--data-dir", "my digits", "--results-dir", "there", "--epochs", "50"]
    args = parse("alexnet2.py", None, typed)
    line = command("alexnet2.py", args, ["results_dir"])
    assert line == "python alexnet2.py --seed 3 --data-dir 'my digits' --xla"
    again = parse("alexnet2.py", None, shlex.split(line)[2:])
    assert vars(again) == {**vars(args), "results_dir": again.results_dir}


@pytest.mark.parametrize(
    "flags",
    [
        ["--epochs", "0"],
        ["--epochs", "1.5"],
        ["--epochs", "-3"],
        ["--batch-size", "1"],
        ["--seed", "x"],
        ["--seed", "9999999999"],
        ["--gpu-memory-fraction", "0"],
        ["--gpu-memory-fraction", "2"],
        ["--gpu-memory-fraction", "nan"],
        ["--device", "tpu"],
        ["--loss", "hinge"],
        ["--nonsense"],
    ],
    ids=" ".join,
)
def test_a_bad_flag_prints_one_line_and_exits_with_2(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        parse("alexnet2.py", None, flags)
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and not out
    assert err.count("\n") == 1 and flags[0] in err and err.startswith("alexnet2.py: error: ")


@pytest.mark.parametrize(
    "sizes, flag",
    [
        ({"train_size": 61}, "--train-size 61"),
        ({"test_size": 31}, "--test-size 31"),
        ({"train_size": 20}, "--batch-size"),
    ],
)
def test_sizes_beyond_the_data_are_refused(sizes, flag):
    dataset = Dataset(images(*[0] * 60), np.zeros(60), images(*[0] * 30), np.zeros(30), None)
    with pytest.raises(UserError, match=flag):
        data.select(dataset, **{"train_size": None, "test_size": 30, "batch_size": 40, **sizes})


def test_the_full_train_size_is_the_default():
    dataset = Dataset(images(*[0] * 60), np.zeros(60), images(*[0] * 30), np.zeros(30), None)
    assert run_name("x", parse("x.py", None, ["--train-size", "60"]), dataset) == "x"
    assert run_name("x", parse("x.py", None, ["--train-size", "59"]), dataset) == "x-train59"


def test_moving_aside_never_overwrites(tmp_path):
    files = loop.Files(tmp_path, "x", None)
    for content in ("one", "two"):
        files.csv.write_text(content)
        files.move_aside()
    assert not files.csv.exists()
    assert [(tmp_path / f"x.csv.old{n}").read_text() for n in (1, 2)] == ["one", "two"]


def test_complete_needs_both_files_and_every_row(tmp_path):
    training(tmp_path, [0, 10], [0, 0], epochs=2)
    csv_path, record_path = tmp_path / "x.csv", tmp_path / "x.json"
    assert complete(csv_path, record_path, 2) and not complete(csv_path, record_path, 3)
    record = read_record(record_path)
    loop.write_record(record_path, {**record, "complete": False})
    assert not complete(csv_path, record_path, 2)
    record_path.unlink()
    assert not complete(csv_path, record_path, 2)


def test_the_commit_is_this_repository_s(tmp_path, monkeypatch):
    """And None where this code was unpacked in another repository."""

    def git(*words):
        who = ["-c", "user.name=x", "-c", "user.email=x@x"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.delenv(commit.VARIABLE, raising=False)
    git("init")
    for folder, names_it in {"common": True, "unpacked/common": False}.items():
        (tmp_path / folder).mkdir(parents=True)
        path = tmp_path / folder / "commit.py"
        path.write_text("")
        git("add", ".")
        git("commit", "-m", folder)
        monkeypatch.setattr(commit, "__file__", str(path))
        found = commit.git_commit()
        assert re.fullmatch(r"[0-9a-f]{40}", found) if names_it else found is None
        path.write_text("changed")
        assert (commit.git_commit() or "+").endswith("+")


def python(code, **environment):
    """Run code that does not import TensorFlow in a process of its own, in the repository's root."""
    command, environment = [sys.executable, "-c", code], {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


def test_a_character_that_the_terminal_lacks_is_escaped():
    done = python("from common.cli import say; say('ü'); say('after')", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\xfc\nafter\n", "")


def test_windows_is_referred_to_wsl():
    code = "import sys; sys.platform = 'win32'; sys.argv = ['alexnet1.py', '--help']; import runpy; "
    done = python(code + "runpy.run_path('alexnet1.py', run_name='__main__')")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "alexnet1.py: error: Windows is not supported; run this in WSL2 (wsl --install)\n"


def test_a_processor_without_avx_is_one_line_before_the_import():
    code = "import pathlib, platform; platform.machine = lambda: 'x86_64'; "
    code += "pathlib.Path.read_text = lambda *_, **__: 'flags : sse4_2 avx512f_like\\n'; import alexnet1"
    done = python(code)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "has no AVX" in done.stderr
