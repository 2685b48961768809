"""The study on a Ray cluster of two nodes with an imaginary GPU each, half of it per run."""

import json
import os
import shutil
import subprocess
import sys

from common.results import read_csv
from conftest import ROOT
import pytest
from test_scripts import SMALL

NAME = "train16-test20-batch8-epochs2"


@pytest.fixture
def cluster(tmp_path):
    """The address of the cluster and the environment of its nodes."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")
    settings = {"AUTH_MODE": "token", "AUTH_TOKEN": "0" * 64, "USAGE_STATS_ENABLED": "0", "worker_niceness": "0"}
    env = {**os.environ, **{f"RAY_{name}": value for name, value in settings.items()}}
    env["MARKS"] = str(tmp_path / "marks")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, ROOT / "tests" / "ray_cluster.py"], env=env, **pipes) as process:
        address = next(line.split()[1] for line in process.stdout if line.startswith("address "))
        yield address, env
        process.communicate("\n")


@pytest.mark.slow
def test_a_cluster_does_the_study(cluster, tmp_path):
    """Four stand-ins and a real script, from a folder that the nodes cannot see."""
    here, marks = tmp_path / "repository", tmp_path / "marks"
    shutil.copytree(ROOT / "common", here / "common", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "alexnet6.py", here)
    marks.mkdir()
    for number in (1, 3, 4, 5):
        shutil.copy(ROOT / "tests" / "ray_stand_in.py", here / f"alexnet{number}.py")
    address, env = cluster
    flags = f"--ray {address} --gpus 0.5 --only 1,3,4,5,6 --seeds 1 -- --no-weights --results-dir /proc/self/cwd/out"
    command = [sys.executable, "-m", "common.study", *flags.split(), *SMALL]
    env["ALEXNET_COMMIT"] = "c0ffee"  # of the study, not of the nodes
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=here, env=env)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[-2:] == [
        f"alexnet1-{NAME} failed: ValueError: no luck",
        "4 of 5 runs are complete, 1 failed",
    ]
    assert len(list(marks.glob("killed*"))) == 4
    for number in (3, 4, 5, 6):
        record = json.loads((here / "out" / f"alexnet{number}-{NAME}.json").read_text())
        assert record["complete"] and record["git_commit"] == "c0ffee"
        assert number == 6 or record["gpu"] == "0"
        assert len(read_csv(here / "out" / f"alexnet{number}-{NAME}.csv")) == 2
    assert (here / "out" / "trace" / f"alexnet6-{NAME}.csv").exists()
    assert f"(alexnet6-{NAME} pid=" in done.stdout  # Ray may drop a node's last lines
