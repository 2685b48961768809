"""All runs, the most important first: complete ones are skipped, unfinished ones resume.

python -m common.study                          one run after the other
python -m common.study --ray local --gpus 0.33  three at a time on one GPU
python -m common.study --ray HOST:6379          on a Ray cluster, a GPU per run
python -m common.study --status                 what is missing, and the time left
python -m common.study -- --device cpu          flags after -- are the scripts'
"""

from argparse import Namespace
import contextlib
from datetime import timedelta
import os
from pathlib import Path
import re
import signal
from statistics import median
import subprocess
import sys

from common import arguments, commit, data
from common.cli import SIGNALS, Parser, UserError, on_signals, run_script, say, user_errors
from common.results import complete, read_csv, read_record, write_text

ROOT = Path(__file__).parent.parent


def plan(seeds):
    """The runs as (experiment, loss, seed): seed 0 of all, then those whose plateau or NaN is a chance event."""
    runs = [(number, "naive", 0) for number in (2, 3, 5, 6, 4, 1, 7)] + [(2, "fused", 0), (7, "fused", 0)]
    for group in ((2, "naive"), (3, "naive"), (5, "naive")), ((6, "naive"), (4, "naive"), (2, "fused"), (7, "fused")):
        runs += [(*run, seed) for seed in range(1, seeds) for run in group]
    return runs + [run for seed in range(1, seeds) for run in ((1, "naive", seed), (7, "naive", seed))]


def run_sequentially(runs, signals, _):
    """Run the scripts one after the other in this terminal until signals come; yields (run, exit code, None)."""
    process = None

    def stop(number, _):
        again = number == signal.SIGINT in signals
        signals.append(number)
        if process:
            process.kill() if again else process.terminate()

    on_signals(stop)
    while runs and not signals:
        run = runs.pop(0)
        # In its own session, so that Ctrl-C reaches it only through the study.
        process = subprocess.Popen([sys.executable, str(ROOT / run.script), *run.flags], start_new_session=True)
        if signals:  # it came before the process existed
            process.terminate()
        code = process.wait()
        yield run, 128 - code if code < 0 else code, None


def ray_task(run):
    """The task of a Ray worker; returns (exit code, why it failed or None, the run's files as {path: text})."""
    code, reason = run_script(run.script, run.flags)
    if code in (128 + signal.SIGTERM, 128 + signal.SIGHUP):
        os._exit(code)  # the node is shutting down, not the study: Ray restarts the task elsewhere
    return code, reason, {path: path.read_text("utf-8") for path in run.files if code == 0 and path.exists()}


def run_on_ray(runs, signals, args):
    """Run the scripts as Ray tasks, wherever their resources are free; yields what run_sequentially does."""
    os.environ |= {"RAY_DEDUP_LOGS": "0", "RAY_COLOR_PREFIX": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    local = {"include_dashboard": False, "object_store_memory": 100 * 2**20} if args.ray == "local" else {}
    code = {"working_dir": str(ROOT), "excludes": ["/*", "!/.", "!/alexnet*.py", "!/common"]}
    code["env_vars"] = {commit.VARIABLE: commit.git_commit() or ""}
    hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closing terminal must not end Ray before its runs
    try:
        import ray

        ray.init(args.ray, runtime_env=code, logging_level="ERROR", **local)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        fix = "; pip install -r requirements-ray.txt" * isinstance(error, ImportError)
        raise UserError(f"--ray {args.ray}: {' '.join(str(error).split())}{fix}") from None
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and "CPU" in node["Resources"]]
    gpus = args.gpus or int(runs[0].device != "cpu")
    cpus = args.cpus or min((node["CPU"] for node in nodes if not gpus), default=1)
    if not any(node["CPU"] >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        raise UserError(f"--ray {args.ray}: no node has {cpus:g} CPUs and {gpus:g} GPUs; lower --cpus or --gpus")
    task_on = ray.remote(num_cpus=cpus, num_gpus=gpus, max_calls=1, max_retries=10)(ray_task)
    waiting, passed_on = {task_on.options(name=run.name).remote(run): run for run in runs}, 0
    signal.signal(signal.SIGHUP, hangup)
    on_signals(lambda number, _: signals.append(number))
    while waiting:
        for number in signals[passed_on:]:
            again = number == signal.SIGINT in signals[:passed_on]
            if again or passed_on == 0:  # a second cancel would quit without saving
                for task in waiting:
                    ray.cancel(task, force=again)
            passed_on += 1
        for task in ray.wait(list(waiting), timeout=0.5)[0]:
            run = waiting.pop(task)
            try:
                code, reason, files = ray.get(task)
                for path, text in files.items():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_text(path, text)
                yield run, code, reason
            except (ray.exceptions.RayError, OSError) as error:
                yield run, 130 if signals else 1, f"{type(error).__name__}: {error}".partition("\n")[0]
    ray.shutdown()


def is_complete(folder, name, epochs):
    """Whether that run is complete; False if its files are unreadable: the run itself then says what is wrong."""
    with contextlib.suppress(UserError):
        return complete(folder / f"{name}.csv", folder / f"{name}.json", epochs)
    return False


def status(runs, *_):
    """Print where these runs stand, and the time left, from the time per epoch in runs of the same kind."""
    kind, seconds, total = re.compile(r"-(epochs|seed)\d+"), {}, 0
    for path in runs[0].results_dir.glob("*.json") if runs else ():
        with contextlib.suppress(UserError, KeyError):
            epoch = read_record(path)["wall_seconds"] / len(read_csv(path.with_suffix(".csv")))
            seconds.setdefault(kind.sub("", path.stem), []).append(epoch)
    for run in runs:
        try:
            epochs = len(read_csv(run.files[1])) if run.files[1].exists() else 0
            state = f"epoch {epochs} of {run.epochs}" if epochs else "missing"
            if run.files[2].exists():
                read_record(run.files[2])
        except UserError:
            epochs, state = 0, "unreadable"
        measured = seconds.get(kind.sub("", run.name))
        left = round((run.epochs - epochs) * median(measured or [0]))
        say(f"{run.name:<38} {state:<18} {str(timedelta(seconds=left)) if measured else 'unknown':>22}")
        total += left
    say(f"{timedelta(seconds=total)} left one after the other, without those of unknown time")
    return ()


def main():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--seeds", type=arguments.integer(1, 1000), default=5, metavar="N", help="seeds 0 to N-1 (5)")
    add("--only", metavar="N,N", default="1,2,3,4,5,6,7", help="only these experiments, such as 2,3,5")
    add("--status", action="store_true", help="start nothing, list what is missing")
    add("--ray", metavar="ADDRESS", help="several at a time: local, or HOST:6379, a cluster that this machine is in")
    add("--gpus", type=arguments.fraction, metavar="F", help="with --ray: a run's share of a GPU (1)")
    add(
        "--cpus",
        type=arguments.integer(1, 1024),
        metavar="N",
        help="with --ray: a run's CPUs (1; without GPU a node's)",
    )
    add("flags", nargs="*", metavar="FLAG", help="after --: flags for the scripts")
    args = parser.parse_args()
    if not set(args.only.split(",")) <= set("1234567"):
        parser.error(f"argument --only: {args.only!r} is not a list of experiments from 1 to 7, such as 2,3,5")
    given = arguments.parse("alexnet1.py", None, args.flags)
    if given.seed or given.loss != "naive" or (given.restart if args.ray else args.gpus or args.cpus):
        parser.error("leave out --seed and --loss; also --gpus and --cpus without --ray, and --restart with it")
    dataset = data.load(given.data_dir)
    data.select(dataset, given.train_size, given.test_size, given.batch_size)
    folder = given.results_dir.absolute()  # a node works elsewhere
    flags = [*args.flags, "--results-dir", str(folder)]
    flags += ["--data-dir", str(given.data_dir.absolute())] if given.data_dir else []
    planned = [run for run in plan(args.seeds) if str(run[0]) in args.only]
    todo, done, failed, signals = [], 0, {}, []
    for number, loss, seed in planned:
        run = Namespace(**vars(given) | {"loss": loss, "seed": seed, "script": f"alexnet{number}.py"})
        run.name = arguments.run_name(f"alexnet{number}", run, dataset)
        run.flags = [*flags, "--loss", loss, "--seed", str(seed)]
        run.files = folder / f"trace/{run.name}.csv", folder / f"{run.name}.csv", folder / f"{run.name}.json"
        names = [run.name]
        if args.status:  # a curve in the other precision counts, too
            other = {"float32": "mixed", "mixed": "float32"}[run.precision]
            names.append(arguments.run_name(f"alexnet{number}", Namespace(**vars(run) | {"precision": other}), dataset))
        found = [name for name in names if not run.restart and is_complete(folder, name, run.epochs)]
        if found:
            say(f"{run.name} is complete" + f" as {found[0]}" * (found[0] != run.name))
            done += 1
        else:
            todo.append(run)
    runner = status if args.status else run_on_ray if args.ray and todo else run_sequentially
    for run, code, reason in runner(todo, signals, args):
        if code == 0 and is_complete(folder, run.name, run.epochs):
            done += 1
        elif not signals or code - 128 not in SIGNALS:
            failed[run.name] = reason or f"exit code {code}"
    for name, reason in failed.items():
        say(f"{name} failed: {reason}")
    say(f"{done} of {len(planned)} runs are complete, {len(failed)} failed" + ", stopped early" * bool(signals))
    sys.exit(128 + signals[0] if signals else bool(failed))


if __name__ == "__main__":
    with user_errors():
        main()
