"""How fast the training step is, beside the article's own loop, PyTorch and the machine's best matrix product.

python -m tests.benchmark             all of it; on 2 cores more than an hour, on a GPU minutes
python -m tests.benchmark --help      parts of it

Every sample is a process of its own, and the contenders take turns, so that a machine whose speed drifts is the same to
all of them: ratios are taken within a turn, and what is printed is the median of the turns and their range. PyTorch
takes part where it is installed, and another commit where --other names a checkout of it. Ctrl-C prints the table of
what has been measured until then.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import itertools
import json
import os
from pathlib import Path
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

from common.cli import Parser

ROOT = Path(__file__).parent.parent
THIS = "this repository"
ARTICLE = "the article's loop"
LIMIT = "matrix product"
CHUNK = {False: 1, True: 100}  # steps between two looks at the clock, and before the first; by whether there is a GPU
LIMIT_SIZES = {False: (2048, 4096), True: (4096, 8192)}  # of square matrices


def contenders(gpu, pytorch, other=None, precisions=("float32", "mixed")):
    """(name, precision, function of tests/peers.py, its options) in the order of a turn.

    pytorch says whether it takes part; other is the name of another checkout, None if there is none.
    """
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
            yield ARTICLE, precision, "article", {}
        yield from ((name, precision, "pytorch", options) for name, options in layouts)


def flops(experiment):
    """Of one training image: three products a layer, two flops a multiplication; none for the gradient of the input."""
    groups = 2 if experiment == 5 else 1
    first = 55**2 * 11**2 * 96
    rest = 27**2 * 5**2 * 96 * 256 + 13**2 * 3**2 * (256 * 384 + (384 * 384 + 384 * 256) // groups)
    connected = 9216 * 4096 + 4096 * 4096 + 4096 * 10
    return 2 * (2 * first + 3 * (rest + connected))


def ours(number, precision, batch, device, xla=False):
    """advance(steps) of a script's own network in the repository's own loop."""
    from common import arguments, data
    from common.session import open_session
    from common.tensorflow import tf
    from common.training import State, Training

    flags = ["--device", device, "--precision", precision, "--batch-size", str(batch), *["--xla"] * xla]
    args = arguments.parse(f"alexnet{number}.py", None, flags)
    script = importlib.import_module(f"alexnet{number}")
    name, _ = open_session(device, precision, xla=xla)
    with tf.device(name):
        stop = argparse.Namespace(signal=None)
        training = Training(
            script.AlexNet(),
            script.naive_loss,
            script.learning_rate,
            data.load(),
            args,
            State(stretches=[{"seconds": 0.0}]),
            lambda *_: None,
            stop,
        )
        train, left = training.train, 0

        def counted(*given):
            nonlocal left
            left -= 1
            if left == 0:
                stop.signal = 1
            return train(*given)

        training.train = counted

    def advance(steps):
        nonlocal left
        while steps:
            # At the end of an epoch the loop returns by itself.
            left = part = min(steps, training.iterations - len(training.state.batches_done))
            stop.signal = None
            with tf.device(name):
                training.train_epoch()
            steps -= part
            if len(training.state.batches_done) == training.iterations:
                training.state.batches_done.clear()

    return advance


def peers(step):
    """advance(steps) from step(number), which returns what waits for it."""
    numbers = itertools.count(1)

    def advance(steps):
        for number in itertools.islice(numbers, steps):
            wait = step(number)
        wait()

    return advance


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
    """Images a second over at least seconds, seconds to the first step less that step, and peak MiB."""
    gpu = device == "gpu"
    if function is None:
        advance = ours(experiment, precision, batch, device, **options)
    else:
        from tests import peers as libraries

        job = libraries.Job(experiment, precision, batch, gpu)
        advance = peers(getattr(libraries, function)(job, **options))
    advance(1)
    first = time.time() - started
    advance(CHUNK[gpu])
    steps, begun = 0, time.perf_counter()
    while (spent := time.perf_counter() - begun) < seconds:
        advance(CHUNK[gpu])
        steps += CHUNK[gpu]
    return {"rate": steps * batch / spent, "ready": first - spent / steps, "peak": peak(gpu, function)}


def sample_limit(started, precision, device):
    """The best matrix-product rate, in flops a second, and on a GPU bytes a second of memory."""
    from common.tensorflow import tf

    gpu = device == "gpu"
    if not gpu:
        tf.config.set_visible_devices([], "GPU")

    def best(work, function, *given):
        """work over the shortest of the times, within two seconds."""
        repeats = 50 if gpu else 1
        times, ends = [], time.perf_counter() + 2
        while time.perf_counter() < ends or len(times) < 4:
            begun = time.perf_counter()
            for _ in range(repeats):
                result = function(*given)
            result[0, :1].numpy()
            times.append((time.perf_counter() - begun) / repeats)
        return work / min(times)

    rates = []
    half = tf.float16 if gpu else tf.bfloat16
    for size in LIMIT_SIZES[gpu]:
        values = tf.random.normal([size, size])
        product = tf.function(tf.matmul)
        given = values if precision == "float32" else tf.cast(values, half)
        rates.append(best(2 * size**3, product, given, given))
    if not gpu:
        return {"rate": max(rates)}
    values = tf.random.normal([2**14, 2**14])
    return {"rate": max(rates), "bandwidth": best(2 * 4 * 2**28, tf.function(lambda x: x + 1), values)}


def sample_run(started, experiment, device, precision, train_size, epochs, steps):
    """A whole run of a script, evaluation, checkpoints and files included, of N steps an epoch (None: all).

    Returns seconds to the imports' end and to the first step's begin, of steps, evaluation and the rest, and peak MiB.
    """
    import runpy

    from common import training
    import common.run  # noqa: F401

    imported = time.time() - started
    spans = {"step": [], "evaluation": [], "run": []}  # (begin, seconds) of each call

    def timed(part, function):
        def call(*given):
            begun = time.time()
            result = function(*given)
            spans[part].append((begun - started, time.time() - begun))
            return result

        return call

    compile_steps, shuffled = training.compile_steps, training.shuffled
    training.Training.evaluate = timed("evaluation", training.Training.evaluate)
    training.Training.run = timed("run", training.Training.run)
    training.shuffled = lambda *given: shuffled(*given)[:steps]

    def compiled(*given):
        train, evaluate = compile_steps(*given)
        return timed("step", train), evaluate

    training.compile_steps = compiled
    script = f"alexnet{experiment}.py"
    with tempfile.TemporaryDirectory() as folder:
        flags = f"--device {device} --precision {precision} --train-size {train_size} --epochs {epochs}"
        sys.argv = [script, *flags.split(), "--results-dir", folder]
        runpy.run_path(str(ROOT / script), run_name="__main__")
    spent = {part: sum(seconds for _, seconds in calls) for part, calls in spans.items()}
    facts = {"imported": imported, "begun": spans["step"][0][0], "steps": len(spans["step"])}
    rest = spent["run"] - spent["step"] - spent["evaluation"]
    return {**facts, **spent, "rest": rest, "peak": peak(device == "gpu", None)}


def sample_machine(started, device):
    """What the samples are taken on, in a few lines."""
    from common.machine import cpu_name
    from common.run import git_commit

    name = cpu_name()
    if device == "gpu":
        command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        name = subprocess.run(command, capture_output=True, text=True).stdout.strip() + ", " + name
    text = (
        f"{name}, {len(os.sched_getaffinity(0))} cores, {datetime.date.today()}, commit {git_commit()}\n"
        f"Python {platform.python_version()}, TensorFlow {importlib.metadata.version('tensorflow')}"
    )
    return {"text": text}


def sample_pytorch(started):
    """The version of PyTorch, None where it is not installed."""
    return {"version": importlib.metadata.version("torch") if importlib.util.find_spec("torch") else None}


def sample(python=(sys.executable,), folder=ROOT, **job):
    """A sample, taken by a process of its own; None, and a line on stderr, if it fails."""
    command = [*python, "-m", "tests.benchmark", "--sample", json.dumps({"started": time.time(), **job})]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if process.returncode:
        reason = (process.stderr.strip() or f"exit code {process.returncode}").splitlines()[-1]
        print(f"{job}: {reason}", file=sys.stderr, flush=True)
        return None
    return json.loads(process.stdout.splitlines()[-1])


def spread(values, digits=1):
    """The median and, of several, the range."""
    text = f"{statistics.median(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def ratios(samples, one, other):
    """Rate of one contender over that of another, in each of the turns that have both."""
    one, other = samples.get(one, {}), samples.get(other, {})
    return [each["rate"] / other[turn]["rate"] for turn, each in one.items() if turn in other]


def table(samples, experiment, batch):
    """The lines of one experiment and batch size; samples is {(contender, precision): {turn: sample}}."""
    yield f"alexnet{experiment}, batch {batch}"
    yield f"{'':34}{'images/s':>24}{'of limit':>10}{'peak MiB':>10}{'ready s':>9}{'n':>3}  ratio"
    for (name, precision), taken in samples.items():
        if name == LIMIT:
            continue
        here, base = (name, precision), (THIS, "float32")
        shares = ratios(samples, here, (LIMIT, precision))
        share = f"{100 * flops(experiment) * statistics.median(shares):.0f} %" if shares else ""
        if name == THIS:
            times, text = ratios(samples, here, base), "{} x float32"
        else:
            times, text = ratios(samples, (THIS, precision), here), "ours {} x"
        ratio = text.format(spread(times, 2)) if times and here != base else ""
        yield (
            f"  {name + ', ' + precision:32}{spread([each['rate'] for each in taken.values()]):>24}{share:>10}"
            f"{statistics.median(each['peak'] for each in taken.values()):>10.0f}"
            f"{statistics.median(each['ready'] for each in taken.values()):>9.1f}{len(taken):>3}  {ratio}"
        ).rstrip()
    for precision in "float32", "mixed":
        if taken := samples.get((LIMIT, precision)):
            rates = spread([each["rate"] / 1e9 for each in taken.values()], 0)
            bandwidths = [each["bandwidth"] / 1e9 for each in taken.values() if "bandwidth" in each]
            memory = f", memory {spread(bandwidths, 0)} GB/s" if bandwidths else ""
            yield f"  limit, {precision}: {rates} GFLOP/s{memory}"
    yield ""


def runs(device):
    """The lines of what whole runs of experiments 2 and 6 show: start, overhead, memory."""
    yield "Whole runs, batch 200: two epochs, evaluation, checkpoints and files included"
    yield f"{'':18}{'images':>8}{'steps':>7}{'imports s':>11}{'first step at s':>17}{'outside it':>12}{'peak MiB':>10}"
    for experiment, precision, train_size, steps in (
        (2, "float32", 6000, None),
        (2, "float32", 60000, 5),
        (2, "mixed", 60000, 5),
        (6, "float32", 6000, 5),
        (6, "float32", 60000, 5),
        (6, "mixed", 60000, 5),
    ):
        job = {"experiment": experiment, "device": device, "precision": precision, "train_size": train_size}
        taken = sample(kind="run", **job, epochs=2, steps=None if device == "gpu" else steps)
        if taken:
            # On a GPU a step's call returns before the step is done.
            outside = "" if device == "gpu" else f"{100 * taken['rest'] / (taken['rest'] + taken['step']):.2f} %"
            yield (
                f"alexnet{experiment}, {precision:8}{train_size:>8}{taken['steps']:>7}{taken['imported']:>11.1f}"
                f"{taken['begun']:>17.1f}{outside:>12}{taken['peak']:>10.0f}"
            )


def measure(args, pytorch, experiment, batch, samples):
    """Let the contenders take their turns, and add what they reach to samples, as table takes them."""
    for turn in range(args.turns):
        these = contenders(args.device == "gpu", pytorch, args.other and args.other.name, args.precisions)
        for name, precision, function, options in these:
            job = {"kind": "limit", "precision": precision, "device": args.device}
            if name != LIMIT:
                job |= {"kind": "speed", "function": function, "options": options, "seconds": args.seconds}
                job |= {"experiment": experiment, "batch": batch}
            if args.other and name == args.other.name:
                job["folder"] = args.other
            if function == "pytorch":
                if turn >= args.peers:
                    continue
                job["python"] = args.peer_python
            if taken := sample(**job):
                samples.setdefault((name, precision), {})[turn] = taken


def main():
    def numbers(text):
        return [int(part) for part in text.split(",")]

    def experiments(text):
        if unknown := set(numbers(text)) - {2, 5, 6}:
            raise argparse.ArgumentTypeError(f"no {min(unknown)}; choose of 2,5,6")
        return numbers(text)

    def precisions(text):
        if unknown := set(text.split(",")) - {"float32", "mixed"}:
            raise argparse.ArgumentTypeError(f"no {min(unknown)!r}; choose of float32,mixed")
        return text.split(",")

    def checkout(text):
        if not (folder := Path(text).resolve()).joinpath("tests", "benchmark.py").exists():
            raise argparse.ArgumentTypeError(f"{text!r} is not a checkout of this repository")
        return folder

    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=experiments, default=[2, 5, 6], metavar="N,N", help="of 2, 5 and 6 (all)")
    parser.add_argument("--batches", type=numbers, default=[200, 50, 800], metavar="N,N", help="sizes (200,50,800)")
    parser.add_argument("--turns", type=int, default=5, metavar="N", help="samples of a contender (5; 0: runs alone)")
    parser.add_argument("--peers", type=int, default=5, metavar="N", help="turns with PyTorch (5)")
    parser.add_argument("--seconds", type=float, default=8, metavar="S", help="the least that a sample times (8)")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="where to run (cpu)")
    parser.add_argument(
        "--peer-python",
        type=shlex.split,
        default=[sys.executable],
        metavar="COMMAND",
        help="the Python that has PyTorch, if it is another one",
    )
    parser.add_argument("--precisions", type=precisions, default=["float32", "mixed"], metavar="P,P", help="(both)")
    parser.add_argument("--other", type=checkout, metavar="DIR", help="a checkout of another commit, to take turns too")
    parser.add_argument("--no-runs", action="store_true", help="leave out the whole runs")
    parser.add_argument("--sample", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.sample:
        kind = args.sample.pop("kind")
        print(json.dumps(globals()[f"sample_{kind}"](**args.sample)))
        return

    if not (machine := sample(kind="machine", device=args.device)):
        sys.exit(1)
    print(machine["text"], flush=True)
    pytorch = (sample(kind="pytorch", python=args.peer_python) or {}).get("version")
    print(f"PyTorch {pytorch or 'is not installed and takes no part'}\n")
    try:
        if not args.no_runs:
            for line in runs(args.device):
                print(line, flush=True)
            print()
        for batch in args.batches:
            for experiment in args.experiments:
                samples = {}
                try:
                    measure(args, pytorch, experiment, batch, samples)
                finally:
                    if samples:
                        print(*table(samples, experiment, batch), sep="\n", flush=True)
    except KeyboardInterrupt:
        print("stopped")
        sys.exit(130)


if __name__ == "__main__":
    main()
