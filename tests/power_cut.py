"""Cut the power of a run repeatedly, in every phase, and check that nothing is lost; needs Linux and root.

python -m tests.power_cut [CUTS]   (20; about 15 seconds each on 2 cores; prints one line per cut and a summary)

The run writes to an ext4 file system in a file. A copy of that file, taken at once, is the cut: it holds what has
reached the disk. The copy is mounted, and the run resumes there. A complete run must have its weights intact.
"""

import argparse
import contextlib
import os
from pathlib import Path
import random
import shutil
import subprocess
import sys
import tempfile
import time
import zlib

with contextlib.suppress(ImportError):
    from common.checkpoint import load
from common.cli import UserError

ROOT = Path(__file__).parent.parent
FLAGS = ["--device", "cpu", "--train-size", "24", "--test-size", "10", "--batch-size", "4", "--epochs", "3"]
FLAGS += ["--save-minutes", "0.05"]
NAME = "alexnet6-train24-test10-batch4-epochs3"


def unsupported():
    """Why this machine cannot run this, or None."""
    if not sys.platform.startswith("linux") or os.geteuid():
        return "needs Linux and root"
    failing = contextlib.suppress(OSError, subprocess.CalledProcessError)
    with tempfile.TemporaryDirectory() as name, failing, mounted(formatted(Path(name) / "disk", 8), name):
        return None
    return "needs mkfs.ext4 and loop devices"


def formatted(image, megabytes):
    """A file with an empty ext4 file system."""
    with open(image, "wb") as file:
        file.truncate(megabytes * 2**20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True, capture_output=True)
    return image


@contextlib.contextmanager
def mounted(image, folder):
    place = Path(tempfile.mkdtemp(dir=folder))
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def start(place):
    command = [sys.executable, "-u", str(ROOT / "alexnet6.py"), *FLAGS, "--results-dir", str(place)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def curve(place):
    return [line.split(",")[:5] for line in (place / f"{NAME}.csv").read_text().splitlines()]


def weights(place):
    """A checksum of each variable; before there was one .npz (commit d22d2a0), of each file."""
    sums = {}
    for path in (place / "weights").glob(f"{NAME}.*"):
        if path.suffix == ".npz":
            arrays, _ = load(path)
            sums |= {name: zlib.crc32(array) for name, array in arrays.items()}
        else:
            sums[path.name] = zlib.crc32(path.read_bytes())
    return sums


def cut(image, folder, chance):
    """Run, copy the disk at some moment, end the run; returns (the copy, what the run was at)."""
    copy, words, reached = folder / "copy", ("epoch 1", "epoch 2", "epoch 3", "is complete"), None
    word, delay = chance.choice(words), chance.choice([0, chance.uniform(0, 4)])
    with mounted(formatted(image, 1200), folder) as place:
        process = start(place)
        for line in process.stdout:
            if word in line:
                reached = word
                time.sleep(delay)
                break
        shutil.copyfile(image, copy)
        process.kill()
        process.stdout.read()
        process.wait()
    return copy, f"{delay:.1f} s after {reached!r}"


def main(cuts):
    if reason := unsupported():
        print(f"skipped: {reason}")
        return 0
    chance, lost = random.Random(0), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        place = folder / "uninterrupted"
        start(place).communicate()
        reference = curve(place), weights(place)
        for number in range(1, cuts + 1):
            copy, when = cut(folder / "disk", folder, chance)
            with mounted(copy, folder) as place:
                process = start(place)
                out, _ = process.communicate()
                try:
                    good = process.returncode == 0 and (curve(place), weights(place)) == reference
                except UserError:
                    good = False
            lost += not good
            before = "complete" if "nothing to do" in out else "resumed" if "resuming" in out else "started over"
            print(f"cut {number}, {when}: {before}, {'nothing lost' if good else 'LOST: ' + out[-300:]}", flush=True)
    print(f"{cuts} power cuts, {lost} lost")
    return int(lost > 0)


if __name__ == "__main__":
    # Not common.cli.Parser: this also runs on commit d22d2a0, whose Parser is another.
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cuts", type=int, nargs="?", default=20, help="how many (20)")
    sys.exit(main(parser.parse_args().cuts))
