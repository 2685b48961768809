"""The study on a Ray cluster of two nodes with a GPU each that is none: half of it for a run."""

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

# In place of a script: kills itself in its first start and fails or waits for its siblings in its second.
STAND_IN = """
import argparse, json, os, pathlib, signal, time
from common import arguments, commit, results

args = arguments.parse("stand-in", None)
dataset = argparse.Namespace(digest=None, train_labels=range(60_000))
name, marks = arguments.run_name("alexnet{number}", args, dataset), pathlib.Path({marks!r})
if not (marks / "killed{number}").exists():
    (marks / "killed{number}").touch()
    os.kill(os.getpid(), signal.SIGKILL)
if {number} == 1:
    raise ValueError("no luck")
(marks / "here{number}").touch()
while len(list(marks.glob("here*"))) < 3:
    time.sleep(0.05)
args.results_dir.mkdir(parents=True, exist_ok=True)
results.write_csv(args.results_dir / f"{{name}}.csv", [results.Row(epoch, 2.3, 0.1) for epoch in (1, 2)])
gpu = os.environ["CUDA_VISIBLE_DEVICES"]
results.write_record(
    args.results_dir / f"{{name}}.json", {{"complete": True, "git_commit": commit.git_commit(), "gpu": gpu}}
)
"""


CLUSTER = """
import tempfile

from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
    # In a folder that nodes share, one removes the code that another already runs, and unpacks its own.
    for name in ("a", "b"):
        cluster.add_node(num_cpus=2, num_gpus=1, temp_dir=f"{folder}/{name}", include_log_monitor=True)
    print("address", cluster.address, flush=True)
    input()
    cluster.shutdown()
"""


@pytest.fixture
def cluster():
    """The address of the cluster and the environment of its nodes."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")
    settings = {"AUTH_MODE": "token", "AUTH_TOKEN": "0" * 64, "USAGE_STATS_ENABLED": "0", "worker_niceness": "0"}
    env = {**os.environ, **{f"RAY_{name}": value for name, value in settings.items()}}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", CLUSTER], env=env, **pipes) as process:
        address = next(line.split()[1] for line in process.stdout if line.startswith("address "))
        yield address, env
        process.communicate("\n")


@pytest.mark.slow
def test_a_cluster_does_the_study(cluster, tmp_path):
    """Four stand-ins and a real script, from a folder that the nodes do not see."""
    here, marks = tmp_path / "repository", tmp_path / "marks"
    shutil.copytree(ROOT / "common", here / "common", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "alexnet6.py", here)
    marks.mkdir()
    for number in (1, 3, 4, 5):
        (here / f"alexnet{number}.py").write_text(STAND_IN.format(number=number, marks=str(marks)))
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
