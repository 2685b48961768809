"""The flags of all seven scripts. They say how to run; what an experiment is about is a constant in its script."""

import argparse
from pathlib import Path
import re
import shlex

from common.cli import Parser

RESULTS = Path(__file__).parent.parent / "results"


def integer(least, most):
    """An argparse type: an integer from least to most."""

    def parse(text):
        if not re.fullmatch(r"\d{1,12}", text, re.ASCII) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer from {least} to {most}")
        return int(text)

    return parse


def real(fits, what):
    """An argparse type: a number for which fits(number) is true; the error calls such numbers what."""

    def parse(text):
        try:
            if fits(float(text)):
                return float(text)
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")

    return parse


fraction = real(lambda value: 0 < value <= 1, "a fraction above 0 and at most 1")
minutes = real(lambda value: 0 <= value <= 10_000, "a number of minutes from 0 to 10000")


def device(text):
    """An argparse type: auto, cpu, gpu or gpu:N."""
    if not re.fullmatch(r"auto|cpu|gpu(:\d{1,3})?", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not one of auto, cpu, gpu, gpu:0, gpu:1, ...")
    return text


def parse(script, description, arguments=None):
    """The flags of one run as a namespace; a bad one ends the process with one line on stderr and exit code 2."""
    parser = Parser(description or "", prog=script)
    add = parser.add_argument
    add("--epochs", type=integer(1, 100_000), default=50, metavar="N", help="passes over the training images (50)")
    add("--batch-size", type=integer(2, 60_000), default=200, metavar="N", help="images a step (200)")
    add("--train-size", type=integer(2, 10**9), metavar="N", help="train on the first N images (all)")
    add("--test-size", type=integer(2, 10**9), default=1000, metavar="N", help="evaluate on the first N (1000)")
    add("--seed", type=integer(0, 2**31 - 1), default=0, metavar="N", help="for initial values, shuffle, dropout (0)")
    add("--loss", choices=("naive", "fused"), default="naive", help="the article's method 1, or 2 summed (naive)")
    add("--data-dir", type=Path, metavar="DIR", help="another MNIST-shaped IDX set (the shipped MNIST)")
    add("--results-dir", type=Path, default=RESULTS, metavar="DIR", help="where CSV and JSON go (results)")
    add("--resize", choices=("tensorflow", "opencv"), default="tensorflow", help="28 to 227 on the device or by cv2")
    add("--device", type=device, default="auto", metavar="D", help="auto, cpu, gpu or gpu:N (auto)")
    add("--gpu-memory-fraction", type=fraction, metavar="F", help="share of the GPU's memory (grow as needed)")
    add("--log-device-placement", action="store_true", help="print which device runs each operation")
    add("--no-tf32", action="store_true", help="full float32 products on Ampere GPUs and newer")
    add("--xla", action="store_true", help="compile the step with XLA (other dropout masks at the same seed)")
    add("--precision", choices=("float32", "mixed"), default="float32", help="mixed: bfloat16 on CPU, float16 on GPU")
    add("--deterministic", action="store_true", help="bit-reproducible operations, slower on a GPU")
    add("--save-minutes", type=minutes, default=5.0, metavar="N", help="a checkpoint every N minutes (5)")
    add("--no-weights", action="store_true", help="do not keep the weights of the last epoch (233 MB)")
    add("--despite-changes", action="store_true", help="resume although the code has changed")
    add("--restart", action="store_true", help="move the files of an earlier run aside and start over")
    return parser.parse_args(arguments)


def command(script, args, left_out):
    """The command that repeats a run, without the flags in left_out and those at their defaults."""
    words, usual = ["python", script], vars(parse(script, None, []))
    for name, value in vars(args).items():
        if name not in left_out and value != usual[name]:
            words += [f"--{name.replace('_', '-')}"] + [str(value)] * (value is not True)
    return shlex.join(words)


def run_name(experiment, args, dataset):
    """The run's file name: the experiment and whatever differs from the article's protocol.

    dataset is the whole set that --data-dir names.
    """
    differs = {
        args.loss: args.loss != "naive",
        f"data{dataset.digest}": dataset.digest is not None,
        f"train{args.train_size}": args.train_size not in (None, len(dataset.train_labels)),
        f"test{args.test_size}": args.test_size != 1000,
        f"batch{args.batch_size}": args.batch_size != 200,
        f"epochs{args.epochs}": args.epochs != 50,
        args.resize: args.resize != "tensorflow",
        args.precision: args.precision != "float32",
        f"seed{args.seed}": args.seed != 0,
    }
    return "-".join([experiment, *(part for part, named in differs.items() if named)])
