"""Many tiny epochs in one process: does its memory stay constant, and are its files complete at the end?

python -m tests.soak [EPOCHS]   (500; Linux; about a second an epoch on 2 cores)
"""

from pathlib import Path
import re
import subprocess
import sys
import tempfile

from common.arguments import integer
from common.cli import Parser
from common.results import read_csv, read_record

ROOT = Path(__file__).parent.parent


def resident(pid):
    """The resident memory of a process in MiB."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def main(epochs):
    flags = f"--device cpu --train-size 4 --batch-size 2 --test-size 2 --epochs {epochs}".split()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-u", str(ROOT / "alexnet6.py"), *flags, "--results-dir", folder]
        memory = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                if line.startswith("epoch "):
                    memory.append(resident(process.pid))
                    if len(memory) in (1, 10) or len(memory) % 50 == 0:
                        print(f"epoch {len(memory)}: {memory[-1]:.0f} MiB", flush=True)
        (csv,) = Path(folder).glob("*.csv")
        rows, record = read_csv(csv), read_record(csv.with_suffix(".json"))
        left = [path.name for path in Path(folder, ".checkpoints").iterdir() if path.suffix != ".lock"]
    tenth = max(1, epochs // 10)
    first, last = (sum(part) / len(part) for part in (memory[tenth : 2 * tenth], memory[-tenth:]))
    print(
        f"{epochs} epochs, exit code {process.returncode}: {first:.0f} MiB on average in the second tenth, "
        f"{last:.0f} in the last; {len(rows)} rows, complete: {record['complete']}, checkpoints left: {left}"
    )


if __name__ == "__main__":
    parser = Parser(__doc__)
    parser.add_argument("epochs", type=integer(10, 100_000), nargs="?", default=500, help="how many (500)")
    main(parser.parse_args().epochs)
