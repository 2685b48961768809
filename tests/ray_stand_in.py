"""In place of a script alexnetN.py: kills itself in its first start, and fails or waits for its siblings in its second.

Its copies meet in the folder that the environment variable MARKS names.
"""

import argparse
import os
from pathlib import Path
import signal
import time

from common import arguments, commit, results

script, marks = Path(__file__).stem, Path(os.environ["MARKS"])
args = arguments.parse(script, None)
name = arguments.run_name(script, args, argparse.Namespace(digest=None, train_labels=range(60_000)))
if not (marks / f"killed-{script}").exists():
    (marks / f"killed-{script}").touch()
    os.kill(os.getpid(), signal.SIGKILL)
if script == "alexnet1":
    raise ValueError("no luck")
(marks / f"here-{script}").touch()
while len(list(marks.glob("here*"))) < 3:
    time.sleep(0.05)
args.results_dir.mkdir(parents=True, exist_ok=True)
results.write_csv(args.results_dir / f"{name}.csv", [results.Row(epoch, 2.3, 0.1) for epoch in (1, 2)])
record = {"complete": True, "git_commit": commit.git_commit(), "gpu": os.environ["CUDA_VISIBLE_DEVICES"]}
results.write_record(args.results_dir / f"{name}.json", record)
