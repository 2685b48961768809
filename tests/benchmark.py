"""How fast the training step is, beside the article's own loop, PyTorch and the machine's best matrix product.

python -m tests.benchmark   all of it; on 2 cores more than an hour, on a GPU minutes

Every sample is a process of its own, and the contenders take turns, so that a drift in the machine's speed affects all
of them alike: ratios are taken within a turn, and the median of the turns is printed with their range. PyTorch takes
part if it is installed, another commit if --other names a checkout of it. Ctrl-C prints the table so far.
"""

import argparse
import datetime
import importlib.metadata
import itertools
import json
import os
from pathlib import Path
import platform
import resource
import runpy
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

from common.cli import Parser, user_errors
from common.commit import git_commit
from common.machine import cpu_name

ROOT = Path(__file__).parent.parent
THIS = "this repository"
LIMIT = "matrix product"
CHUNK = {False: 1, True: 100}  # steps between readings of the clock, and before the first; by whether there is a GPU


def contenders(gpu, pytorch, other=None, precisions=("float32", "mixed")):
    """Yield (name, precision, function of tests/peers.py, its options) in the order of a turn."""
    layouts = [("PyTorch", {}), ("PyTorch channels_last", {"channels_last": True})] if pytorch else []
    if gpu:
        layouts += [(f"{name}, compiled", {**options, "compiled": True}) for name, options in layouts]
    for precision in precisions:
        yield LIMIT, precision, None, {}
        yield THIS, precision, None, {}
        if other:
            yield other, precision, None, {}
        if precision == "float32":
            if gpu:
                yield f"{THIS}, XLA", precision, None, {"xla": True}
            yield "the article's loop", precision, "article", {}
        yield from ((name, precision, "pytorch", options) for name, options in layouts)


def flops(experiment):
    """Of one training image: three products per layer, two flops per multiplication, no gradient of the input."""
    groups = 2 if experiment == 5 else 1
    first = 55**2 * 11**2 * 96
    rest = 27**2 * 5**2 * 96 * 256 + 13**2 * 3**2 * (256 * 384 + (384 * 384 + 384 * 256) // groups)
    connected = 9216 * 4096 + 4096 * 4096 + 4096 * 10
    return 2 * (2 * first + 3 * (rest + connected))


def peak(gpu, function):
    """MiB: of the process on a CPU, of the device's memory on a GPU where the library reports it."""
    if not gpu:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if function == "pytorch":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    import tensorflow as tf

    return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20


def sample_speed(started, experiment, precision, batch, device, function, options, seconds):
    """Images per second over at least seconds, and peak MiB."""
    from tests import peers

    gpu, numbers = device == "gpu", itertools.count(1)
    step = getattr(peers, function or "ours")(experiment, precision, batch, gpu, **options)

    def advance(steps):
        for number in itertools.islice(numbers, steps):
            wait = step(number)
        wait()

    advance(1 + CHUNK[gpu])
    steps, begin = 0, time.perf_counter()
    while (spent := time.perf_counter() - begin) < seconds:
        advance(CHUNK[gpu])
        steps += CHUNK[gpu]
    return {"rate": steps * batch / spent, "peak": peak(gpu, function)}


def sample_limit(started, precision, device):
    """The best rate of a matrix product within two seconds or four products, in flops per second."""
    from common.tensorflow import tf

    gpu = device == "gpu"
    if not gpu:
        tf.config.set_visible_devices([], "GPU")
    kind = tf.float32 if precision == "float32" else tf.float16 if gpu else tf.bfloat16
    size, repeats = (8192, 100) if gpu else (4096, 1)
    values, product = tf.cast(tf.random.normal([size, size]), kind), tf.function(tf.matmul)
    times, end = [], time.perf_counter() + 2
    while time.perf_counter() < end or len(times) < 4:
        begin = time.perf_counter()
        for _ in range(repeats):
            result = product(values, values)
        result[0, :1].numpy()
        times.append((time.perf_counter() - begin) / repeats)
    return {"rate": 2 * size**3 / min(times)}


def sample_run(started, experiment, device, precision, train_size, epochs, steps):
    """A whole run of a script, evaluation, checkpoints and files included, of N steps an epoch (None: all).

    Returns seconds until the first step, seconds inside and outside steps and evaluations, steps, and peak MiB.
    """
    from common import training

    calls = {"step": [], "evaluation": [], "run": []}  # (start, seconds) of each

    def timed(part, function):
        def call(*given):
            begin = time.time()
            result = function(*given)
            calls[part].append((begin - started, time.time() - begin))
            return result

        return call

    compile_steps, shuffled = training.compile_steps, training.shuffled

    def compile_timed(*given):
        train, evaluate = compile_steps(*given)
        return timed("step", train), evaluate

    training.compile_steps = compile_timed
    training.shuffled = lambda *given: shuffled(*given)[:steps]
    training.Training.evaluate = timed("evaluation", training.Training.evaluate)
    training.Training.run = timed("run", training.Training.run)
    with tempfile.TemporaryDirectory() as folder:
        flags = f"--device {device} --precision {precision} --train-size {train_size} --epochs {epochs}"
        sys.argv = [f"alexnet{experiment}.py", *flags.split(), "--results-dir", folder]
        runpy.run_path(str(ROOT / sys.argv[0]), run_name="__main__")
    step, evaluation, run = (sum(seconds for _, seconds in calls[part]) for part in calls)
    found = {"first": calls["step"][0][0], "steps": len(calls["step"]), "peak": peak(device == "gpu", None)}
    return {**found, "step": step, "outside": run - step - evaluation}


def describe_machine(device):
    """What the samples are taken on, in two lines."""
    name = cpu_name()
    if device == "gpu":
        command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        name = subprocess.run(command, capture_output=True, text=True).stdout.strip() + ", " + name
    return (
        f"{name}, {len(os.sched_getaffinity(0))} cores, {datetime.date.today()}, commit {git_commit()}\n"
        f"Python {platform.python_version()}, TensorFlow {importlib.metadata.version('tensorflow')}"
    )


def pytorch_version(python):
    """The version of PyTorch in a Python, "" if it has none."""
    command = [*python, "-c", "from importlib.metadata import version; print(version('torch'))"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def sample(python=(sys.executable,), folder=ROOT, **job):
    """A sample, taken by a process of its own; None, and a line on stderr, if that fails."""
    command = [*python, "-m", "tests.benchmark", "--sample", json.dumps({"started": time.time(), **job})]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if process.returncode:
        reason = (process.stderr.strip() or f"exit code {process.returncode}").splitlines()[-1]
        print(f"{job}: {reason}", file=sys.stderr, flush=True)
        return None
    return json.loads(process.stdout.splitlines()[-1])


def median_and_range(values, digits=1):
    """The median and, if there are several, the range."""
    text = f"{statistics.median(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def ratios(samples, one, other):
    """Rate of one contender over that of another, in each of the turns that have both."""
    one, other = samples.get(one, {}), samples.get(other, {})
    return [each["rate"] / other[turn]["rate"] for turn, each in one.items() if turn in other]


def table(samples, experiment, batch):
    """Yield the lines of one experiment and batch size; samples is {(contender, precision): {turn: sample}}."""
    yield f"alexnet{experiment}, batch {batch}"
    yield f"{'':34}{'images/s':>24}{'of limit':>10}{'peak MiB':>10}{'n':>3}  ratio"
    for (name, precision), taken in samples.items():
        rates = [each["rate"] for each in taken.values()]
        if name == LIMIT:
            yield f"  {name + ', ' + precision:32}{median_and_range([rate / 1e9 for rate in rates], 0):>24} GFLOP/s"
            continue
        here, base = (name, precision), (THIS, "float32")
        shares = ratios(samples, here, (LIMIT, precision))
        share = f"{100 * flops(experiment) * statistics.median(shares):.0f} %" if shares else ""
        if name == THIS:
            times, text = ratios(samples, here, base), "{} x float32"
        else:
            times, text = ratios(samples, (THIS, precision), here), "ours {} x"
        ratio = text.format(median_and_range(times, 2)) if times and here != base else ""
        peak = statistics.median(each["peak"] for each in taken.values())
        line = f"  {name + ', ' + precision:32}{median_and_range(rates):>24}{share:>10}{peak:>10.0f}{len(taken):>3}"
        yield f"{line}  {ratio}".rstrip()
    yield ""


def runs(device):
    """Yield the lines on whole runs of experiments 2 and 6: start, overhead, memory."""
    yield "Whole runs, batch 200: two epochs, evaluation, checkpoints and files included"
    yield f"{'':18}{'images':>8}{'steps':>7}{'first step at s':>17}{'outside it':>12}{'peak MiB':>10}"
    kinds = ("float32", 6000), ("float32", 60000), ("mixed", 60000)
    for experiment, (precision, images) in itertools.product((2, 6), kinds):
        job = {"experiment": experiment, "device": device, "precision": precision, "train_size": images}
        taken = sample(kind="run", **job, epochs=2, steps=None if device == "gpu" else 5)
        if taken:
            share = 100 * taken["outside"] / (taken["outside"] + taken["step"])
            # On a GPU the call of a step returns before the step is done.
            outside = f"{share:.2f} %" if device == "cpu" else ""
            line = f"alexnet{experiment}, {precision:8}{images:>8}{taken['steps']:>7}{taken['first']:>17.1f}"
            yield f"{line}{outside:>12}{taken['peak']:>10.0f}"
    yield ""


def measure(args, pytorch, experiment, batch, samples):
    """Let the contenders take their turns, and add what they measure to samples, in the form that table takes."""
    other = args.other and args.other.name
    for turn in range(args.turns):
        for name, precision, function, options in contenders(args.device == "gpu", pytorch, other, args.precisions):
            job = {"kind": "limit", "precision": precision, "device": args.device}
            if name != LIMIT:
                job |= {"kind": "speed", "function": function, "options": options, "seconds": args.seconds}
                job |= {"experiment": experiment, "batch": batch}
            if name == other:
                job["folder"] = args.other
            if function == "pytorch":
                job["python"] = args.peer_python
            if taken := sample(**job):
                samples.setdefault((name, precision), {})[turn] = taken


def main():
    parser = Parser(__doc__)
    add, both = parser.add_argument, ["float32", "mixed"]
    add("--experiments", type=int, nargs="+", choices=(2, 5, 6), default=[2, 5, 6], metavar="N", help="of 2 5 6 (all)")
    add("--batches", type=int, nargs="+", default=[200, 50, 800], metavar="N", help="batch sizes (200 50 800)")
    add("--precisions", nargs="+", choices=both, default=both, metavar="P", help="of float32 mixed (both)")
    add("--turns", type=int, default=5, metavar="N", help="samples of a contender (5; 0: only whole runs)")
    add("--seconds", type=float, default=8, metavar="S", help="length of a sample, at least (8)")
    add("--device", choices=("cpu", "gpu"), default="cpu", help="where to run (cpu)")
    add("--peer-python", type=shlex.split, default=[sys.executable], metavar="COMMAND", help="the Python with PyTorch")
    add("--other", type=Path, metavar="DIR", help="a checkout of another commit, which takes turns, too")
    add("--no-runs", action="store_true", help="leave out the whole runs")
    add("--sample", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.sample:
        kind = args.sample.pop("kind")
        print(json.dumps(globals()[f"sample_{kind}"](**args.sample)))
        return
    if args.other and not (args.other / "tests" / "benchmark.py").exists():
        parser.error(f"--other {args.other}: not a checkout of this repository")
    print(describe_machine(args.device), flush=True)
    pytorch = pytorch_version(args.peer_python)
    print(f"PyTorch {pytorch or 'is not installed and takes no part'}\n")
    for line in () if args.no_runs else runs(args.device):
        print(line, flush=True)
    for batch, experiment in itertools.product(args.batches, args.experiments):
        samples = {}
        try:
            measure(args, pytorch, experiment, batch, samples)
        finally:
            if samples:
                print(*table(samples, experiment, batch), sep="\n", flush=True)


if __name__ == "__main__":
    with user_errors():
        main()
