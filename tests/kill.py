"""Kill a run with SIGKILL again and again, in every phase, and compare its files with those of a run left alone.

python -m tests.kill [KILLS]   (30; about 10 seconds each on 2 cores; prints one line a kill and a summary)
"""

import collections
import json
from pathlib import Path
import random
import subprocess
import sys
import tempfile
import zlib

from common.checkpoint import load

ROOT = Path(__file__).parent.parent
FLAGS = ["--device", "cpu", "--train-size", "24", "--test-size", "10", "--batch-size", "4", "--epochs", "8"]
FLAGS += ["--save-minutes", "0.03"]
NAME = "alexnet6-train24-test10-batch4-epochs8"
PHASES = ("step", "evaluation", "csv", "json", "trace", "checkpoint", "weights")

# The run itself, with each phase announced on stdout; in the one named, the n-th time, it kills itself after
# some milliseconds.
RUN = """
import os, runpy, signal, sys, threading, time
sys.path.insert(0, sys.argv[1])
target, times, delay = sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
sys.argv = sys.argv[5:]
import common.run as loop, common.training as training

def kill():
    time.sleep(delay)
    os.kill(os.getpid(), signal.SIGKILL)

def announce(phase, function, waits=False):
    def wrapped(*given):
        global times
        os.write(1, f"@enter {phase}\\n".encode())
        if phase == target:
            times -= 1
            if times == 0 and delay:
                threading.Thread(target=kill, daemon=True).start()
            elif times == 0:
                kill()
        result = function(*given)
        os.write(1, f"@leave {phase}\\n".encode())
        return result
    return wrapped

replace = os.replace
def replace_announced(source, target):
    name = os.fspath(target)
    phase = "trace" if "trace" in name else name.rpartition(".")[2]
    announce(phase, replace)(source, target)

os.replace = replace_announced  # the file is written, but not yet in place
loop.Training.evaluate = announce("evaluation", loop.Training.evaluate)
save = loop.save
loop.save = lambda path, *given: announce("weights" if "weights" in path.parts else "checkpoint", save)(path, *given)
compile_steps = training.compile_steps
def compiled(*given):
    train, evaluate = compile_steps(*given)
    return announce("step", train), evaluate
training.compile_steps = compiled
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(folder, phase="none", times=0, delay=0.0):
    """One start of the script; returns (exit code, the phase in which it ended or None)."""
    script = str(ROOT / "alexnet6.py")
    command = [sys.executable, "-c", RUN, str(ROOT), phase, str(times), str(delay), script, *FLAGS]
    done = subprocess.run([*command, "--results-dir", str(folder)], capture_output=True, text=True)
    events = [line.split() for line in done.stdout.splitlines() if line.startswith("@")]
    inside = events[-1][1] if events and events[-1][0] == "@enter" else None
    if done.returncode not in (0, -9):
        print(done.stdout, done.stderr)
    return done.returncode, inside


def outcome(folder):
    """What a run leaves that must not depend on kills: curve without seconds, trace, weights, record without times."""
    rows = [line.split(",") for line in (folder / f"{NAME}.csv").read_text().splitlines()]
    record = json.loads((folder / f"{NAME}.json").read_text())
    for times in record, *record["stretches"]:
        for key in {"started", "wall_seconds", "seconds", "weights_bytes"} & set(times):  # the file holds times, too
            del times[key]
    trace = (folder / "trace" / f"{NAME}.csv").read_text()
    arrays, _ = load(folder / "weights" / f"{NAME}.npz")
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    weights = {name: zlib.crc32(array) for name, array in arrays.items()}
    return [row[:5] + row[6:] for row in rows], trace, weights, record, left


def main(kills):
    chance, hit, codes = random.Random(0), collections.Counter(), collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        alone, killed = Path(folder) / "alone", Path(folder) / "killed"
        assert run(alone)[0] == 0
        reference, differences, runs = outcome(alone), 0, 0
        while sum(hit.values()) < kills:
            phase = PHASES[sum(codes.values()) % len(PHASES)]
            delay = {"step": chance.uniform(0.05, 0.3), "evaluation": chance.uniform(0.02, 0.1)}.get(phase, 0.0)
            if phase in ("checkpoint", "weights"):
                delay = chance.uniform(0.0, 0.15)
            code, inside = run(killed, phase, 1 if phase == "weights" else chance.randint(1, 3), delay)
            codes[code] += 1
            if code == -9:
                hit[inside or "between"] += 1
                print(f"kill {sum(hit.values())}: aimed at {phase}, hit {inside or 'between phases'}", flush=True)
            elif code == 0:
                runs += 1
                differences += outcome(killed) != reference
                print(f"run {runs} is complete, {differences} differences so far", flush=True)
                for path in [*killed.glob(f"{NAME}.*"), *killed.glob(f"*/{NAME}.*")]:
                    path.unlink()
            else:
                return 1
        while run(killed)[0] != 0:
            pass
        runs += 1
        differences += outcome(killed) != reference
    print(f"{sum(hit.values())} kills in {runs} runs, {dict(hit)}; {differences} runs differ from one left alone")
    return int(differences > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 30))
