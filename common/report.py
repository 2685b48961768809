"""What a run prints. If stdout goes away (a closed terminal, a broken pipe), the run continues without it."""

import contextlib
import datetime
import math
import textwrap
import time

from common.cli import no_bar, say
from common.machine import gpu_missing, nvidia_present
from tqdm import tqdm

FIRST_LINE, NEXT_LINE = 60, 600  # seconds until a run without a bar reports its speed


def banner(facts, args):
    """What the run really uses, in at most four lines of at most 80 columns where the device's name allows."""
    versions = facts["versions"]
    lines = [
        f"TensorFlow {versions['tensorflow']} (built for CUDA {versions['cuda']}, cuDNN {versions['cudnn']}), "
        f"Python {versions['python']}",
        f"{facts['device']} {facts['device_name']}, "
        + (f"memory {facts['memory']}" if facts["memory"] else f"{facts['threads']} threads"),
        f"{facts['precision']}{', TF32' * facts['tf32']}{', XLA' * facts['xla']}"
        f"{', deterministic' * facts['deterministic']}, seed {args.seed}",
    ]
    if facts["device"] == "CPU" and args.device == "auto" and nvidia_present():
        lines.append(f"No usable GPU: {gpu_missing()}")
    return "\n".join(lines)


def describe(cause):
    """Why a loss is not finite (training.diagnose_nan), in a few lines of at most 80 columns."""
    place = "evaluation" if cause["iteration"] is None else f"iteration {cause['iteration']}"
    gap = f"{cause['logit_gap']:.4g}"
    apart = f"the logits are {gap} apart" if math.isfinite(cause["logit_gap"]) else "the logits are not finite"
    if cause["cause"] == "log(0)":
        apart += ", so that a softmax entry is 0"
    activations = ", ".join(f"{name} {value:.3g}" for name, value in cause["largest_activation"].items())
    lines = [
        f"epoch {cause['epoch']}, {place}: the loss is not finite: {cause['cause']}",
        f"{apart} at image {cause['image']}, a {cause['label']}",
        *textwrap.wrap(f"largest activations: {activations}", 76),
    ]
    return "\n  ".join(lines)


def epoch_line(row, epochs):
    """The line of an epoch, in the article's format."""
    seconds = "" if row.seconds is None else f", {row.seconds:.0f} s"
    return (
        f"epoch {row.epoch}/{epochs}, loss {row.loss:.8g}, testing accuracy {row.accuracy:.4g}, "
        f"training {row.train_accuracy:.3f}{seconds}"
    )


class Progress:
    """Within an epoch: a bar on a terminal; in a file or a pipe a line after a minute, then every ten minutes."""

    def __init__(self, epochs):
        self.epochs, self.due = epochs, time.perf_counter() + FIRST_LINE

    def begin(self, epoch, images, done):
        """Show the bar of an epoch counted from 1, with N images, done of them already trained."""
        self.bar = tqdm(
            total=images,
            initial=done,
            desc=f"epoch {epoch}/{self.epochs}",
            unit=" images",
            disable=no_bar(),
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {rate_noinv_fmt}{postfix}",
        )
        self.epoch, self.images, self.done = epoch, images, done

    def update(self, images, loss, accuracy, rate, seconds_left):
        """Advance by some images; mean loss and accuracy of the epoch, images per second, seconds left in the run."""
        self.done += images
        left = f"{datetime.timedelta(seconds=round(seconds_left))} left"
        if self.bar.disable:
            if time.perf_counter() >= self.due:
                self.due = time.perf_counter() + NEXT_LINE
                share = f"{100 * self.done / self.images:.0f} %"
                say(f"epoch {self.epoch}/{self.epochs}, {share}, {rate:.3g} images/s, loss {loss:.1f} so far, {left}")
            return
        with contextlib.suppress(OSError):
            self.bar.set_postfix_str(f"loss {loss:.1f}, accuracy {accuracy:.3f}, {left}", refresh=False)
            self.bar.update(images)

    def end(self):
        with contextlib.suppress(OSError):
            self.bar.close()
