"""The study runs what is missing, skips what is complete and stops when asked."""

import signal
import subprocess
import sys

from common.study import plan
from conftest import ROOT
import pytest
from test_scripts import SMALL


def study(folder, *flags):
    command = [sys.executable, "-m", "common.study", *flags, "--", *SMALL, "--results-dir", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def test_the_plan():
    runs = plan(5)
    assert len(runs) == len(set(runs)) == 9 * 5 and {run[0] for run in runs[:7]} == set(range(1, 8))
    assert all(seed == 0 for *_, seed in runs[:9])
    assert runs[9:21] == [(number, "naive", seed) for seed in range(1, 5) for number in (2, 3, 5)]
    assert plan(1) == runs[:9]


def test_what_is_complete_is_skipped(tmp_path):
    out, err = study(tmp_path, "--only", "1", "--seeds", "2", "--jobs", "2").communicate()
    assert err == "" and out.splitlines()[-1] == "2 runs started, 0 failed"
    assert {path.stem for path in tmp_path.glob("*.csv")} == {
        f"alexnet1-train16-test20-batch8-epochs2{seed}" for seed in ("", "-seed1")
    }
    out, _ = study(tmp_path, "--only", "1", "--seeds", "2").communicate()
    assert out.count("is complete\n") == 2 and out.splitlines()[-1] == "0 runs started, 0 failed"


def test_a_signal_stops_the_run_in_hand_and_starts_no_other(tmp_path):
    process = study(tmp_path, "--only", "6", "--seeds", "3")
    for line in process.stdout:
        if "float32, seed 0" in line:
            process.send_signal(signal.SIGINT)
            break
    out = process.stdout.read()
    process.wait()
    assert "the same command goes on there" in out
    assert out.splitlines()[-1] == "1 runs started, 0 failed, stopped before the end"
    assert process.returncode == 143


@pytest.mark.parametrize("flags", [["--only", "8"], ["--jobs", "0"], ["--seeds", "x"]], ids=" ".join)
def test_bad_input(flags, tmp_path):
    process = study(tmp_path, *flags)
    out, err = process.communicate()
    assert process.returncode == 2 and out == "" and err.count("\n") == 1 and flags[0] in err
