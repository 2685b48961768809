"""All runs of the study, the most wanted first; what is complete is skipped, what was interrupted goes on.

python -m common.study                    seeds 0 to 4 of all seven, the article's protocol, one run after the other
python -m common.study --jobs 3           three runs at a time on one GPU
python -m common.study -- --device cpu    flags after -- go to the scripts
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import signal
import subprocess
import sys
import threading

from common import arguments
from common.cli import Parser, user_errors
from common.results import complete

ROOT = Path(__file__).parent.parent


def plan(seeds):
    """The runs as (experiment, loss, seed): seed 0 of all, then those whose plateau or NaN is a chance event."""
    runs = [(number, "naive", 0) for number in (2, 3, 5, 6, 4, 1, 7)] + [(2, "fused", 0), (7, "fused", 0)]
    for group in ((2, "naive"), (3, "naive"), (5, "naive")), ((6, "naive"), (4, "naive"), (2, "fused"), (7, "fused")):
        runs += [(*run, seed) for seed in range(1, seeds) for run in group]
    return runs + [run for seed in range(1, seeds) for run in ((1, "naive", seed), (7, "naive", seed))]


class Study:
    """Runs scripts as subprocesses, up to jobs at a time, until one is stopped by a signal."""

    def __init__(self, flags):
        self.flags, self.running, self.stopped, self.codes = flags, set(), False, []
        self.lock = threading.Lock()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.stop)

    def stop(self, number, _):
        """Start nothing more, and let the runs in hand save what they need to go on."""
        self.stopped = True
        for process in tuple(self.running):
            process.send_signal(signal.SIGTERM)

    def run(self, number, loss, seed):
        """One script; its lines go to stdout, each behind the run's name."""
        command = [f"alexnet{number}.py", "--loss", loss, "--seed", str(seed), *self.flags]
        args = arguments.parse(command[0], None, command[1:])
        name = arguments.run_name(f"alexnet{number}", args, None)
        with self.lock:
            if self.stopped:
                return
            if not args.restart and complete(*(args.results_dir / f"{name}.{s}" for s in ("csv", "json")), args.epochs):
                print(f"[{name}] is complete", flush=True)
                return
            process = subprocess.Popen(
                [sys.executable, "-u", ROOT / command[0], *command[1:]],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,  # Ctrl-C reaches it through stop alone
            )
            self.running.add(process)
        for line in process.stdout:
            print(f"[{name}] {line}", end="", flush=True)
        self.codes.append(process.wait())
        self.running.discard(process)


def main():
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=arguments.whole(1, 1000), default=5, metavar="N", help="seeds 0 to N-1 (5)")
    parser.add_argument("--jobs", type=arguments.whole(1, 64), default=1, metavar="N", help="runs at a time (1)")
    parser.add_argument("--only", metavar="N,N", help="these experiments alone, such as 2,3,5")
    parser.add_argument("flags", nargs="*", metavar="FLAG", help="after --: flags for the scripts")
    args = parser.parse_args()
    if args.only and not set(args.only.split(",")) <= set("1234567"):
        parser.error(f"argument --only: {args.only!r} does not name experiments from 1 to 7, such as 2,3,5")
    arguments.parse("alexnet1.py", None, args.flags)  # a bad flag ends the study, not every run of it
    study = Study(args.flags)
    with ThreadPoolExecutor(args.jobs) as pool:
        for run in plan(args.seeds):
            if not args.only or str(run[0]) in args.only.split(","):
                pool.submit(study.run, *run)
    failed = sum(code not in (0, 143) for code in study.codes)
    print(f"{len(study.codes)} runs started, {failed} failed" + ", stopped before the end" * study.stopped)
    sys.exit(1 if failed else 143 if study.stopped else 0)


if __name__ == "__main__":
    with user_errors():
        main()
