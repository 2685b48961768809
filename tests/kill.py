"""Kill a run with SIGKILL repeatedly, in every phase, and compare its files with those of an uninterrupted run.

python -m tests.kill [KILLS]   (30; about 10 seconds each on 2 cores; prints one line per kill and a summary)
"""

import collections
import json
import os
from pathlib import Path
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zlib

from common.arguments import integer
from common.checkpoint import load
from common.cli import Parser

ROOT = Path(__file__).parent.parent
FLAGS = ["--device", "cpu", "--train-size", "24", "--test-size", "10", "--batch-size", "4", "--epochs", "8"]
FLAGS += ["--save-minutes", "0.03"]
NAME = "alexnet6-train24-test10-batch4-epochs8"
PHASES = ("step", "evaluation", "csv", "json", "trace", "checkpoint", "weights")


def run_until_killed(phase, times, delay, script, *flags):
    """Run a script, announce each phase on stdout, and kill this process delay seconds into the n-th of one phase."""
    from common import run as loop
    from common import training

    left, delay = int(times), float(delay)

    def kill():
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGKILL)

    def announced(name, function):
        def wrapped(*given):
            nonlocal left
            os.write(1, f"@enter {name}\n".encode())
            left -= name == phase
            if name == phase and left == 0:
                threading.Thread(target=kill, daemon=True).start() if delay else kill()
            result = function(*given)
            os.write(1, f"@leave {name}\n".encode())
            return result

        return wrapped

    replace, save, compile_steps = os.replace, loop.save, training.compile_steps

    def replace_announced(source, target):  # the file is written, but not yet in place
        name = "trace" if "trace" in os.fspath(target) else os.fspath(target).rpartition(".")[2]
        announced(name, replace)(source, target)

    def save_announced(path, *given):
        announced("weights" if "weights" in path.parts else "checkpoint", save)(path, *given)

    def compile_announced(*given):
        train, evaluate = compile_steps(*given)
        return announced("step", train), evaluate

    os.replace, loop.save, training.compile_steps = replace_announced, save_announced, compile_announced
    loop.Training.evaluate = announced("evaluation", loop.Training.evaluate)
    sys.argv = [script, *flags]
    runpy.run_path(script, run_name="__main__")


def run(folder, phase="none", times=0, delay=0.0):
    """Start the script once; returns (exit code, the phase in which it ended or None)."""
    script = str(ROOT / "alexnet6.py")
    command = [sys.executable, "-m", "tests.kill", "--run", phase, str(times), str(delay), script, *FLAGS]
    done = subprocess.run([*command, "--results-dir", str(folder)], capture_output=True, text=True, cwd=ROOT)
    events = [line.split() for line in done.stdout.splitlines() if line.startswith("@")]
    inside = events[-1][1] if events and events[-1][0] == "@enter" else None
    if done.returncode not in (0, -9):
        print(done.stdout, done.stderr)
    return done.returncode, inside


def outcome(folder):
    """What must not depend on kills: curve without seconds, trace, weights, record without times, names of files."""
    rows = [line.split(",") for line in (folder / f"{NAME}.csv").read_text().splitlines()]
    record = json.loads((folder / f"{NAME}.json").read_text())
    for times in record, *record["stretches"]:
        for key in {"started", "wall_seconds", "seconds", "weights_bytes"} & set(
            times
        ):  # its size varies with the times in it
            del times[key]
    trace = (folder / "trace" / f"{NAME}.csv").read_text()
    arrays, _ = load(folder / "weights" / f"{NAME}.npz")
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    weights = {name: zlib.crc32(array) for name, array in arrays.items()}
    return [row[:5] + row[6:] for row in rows], trace, weights, record, left


def main(kills):
    chance, hit, codes = random.Random(0), collections.Counter(), collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        uninterrupted, killed = Path(folder) / "uninterrupted", Path(folder) / "killed"
        assert run(uninterrupted)[0] == 0
        reference, differences, runs = outcome(uninterrupted), 0, 0
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
    print(f"{sum(hit.values())} kills in {runs} runs, {dict(hit)}; {differences} runs differ from an uninterrupted one")
    return int(differences > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run_until_killed(*sys.argv[2:])
        sys.exit()
    parser = Parser(__doc__)
    parser.add_argument("kills", type=integer(1, 100_000), nargs="?", default=30, help="how many (30)")
    sys.exit(main(parser.parse_args().kills))
