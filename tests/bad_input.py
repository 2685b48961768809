"""Every kind of bad input, the line that it costs and the exit code.

python -m tests.bad_input   (prints a table; the tests beside this file hold the same lines to account)
"""

import contextlib
import gzip
import io
import os
from pathlib import Path
import re
import sys
import tempfile

from common import arguments, data, session
from common.cli import user_errors
import numpy as np

import plot_results

sys.path.insert(0, str(Path(__file__).parent))
from test_data import DAMAGE, idx  # noqa: E402

FLAGS = """--epochs 0|--epochs 1.5|--batch-size 1|--seed x|--seed 9999999999|--gpu-memory-fraction 0
--gpu-memory-fraction 2|--device tpu|--device gpu|--loss hinge|--train-size 70000|--test-size 10001
--train-size 100|--batch-size 60000 --train-size 500|--xla --precision mixed|--gpu-memory-fraction 0.5
--data-dir nowhere|--nonsense""".replace("\n", "|").split("|")
HEADER = "epoch,loss,accuracy\n"
CURVES = {
    "empty": "",
    "header only": HEADER,
    "cut in a row": HEADER + "1,2300,0.1\n2,22",
    "text for a number": HEADER + "1,many,0.1\n",
    "an epoch missing": HEADER + "1,2300,0.1\n3,2300,0.1\n",
    "an epoch twice": HEADER + "1,2300,0.1\n1,2300,0.1\n",
    "accuracy of 7": HEADER + "1,2300,7\n",
    "another table": "a,b,c\n1,2,3\n",
}


def costs(function):
    """(exit code, what it prints on stderr) of a call."""
    stderr = io.StringIO()
    code = 0
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        try:
            with user_errors():
                function()
        except SystemExit as stop:
            code = stop.code
    return code, stderr.getvalue()


def started(flags):
    """What alexnet1.py does with its flags before it trains."""
    args = arguments.parse("alexnet1.py", None, flags)
    data.select(data.load(args.data_dir), args)
    session.open_session(args)


def cases(folder):
    """(name, function) of each case."""
    mnist = data.load()
    for flags in FLAGS:
        yield flags, lambda flags=flags: started(flags.split())
    arrays = (mnist.train_images[:6], mnist.train_labels[:6], mnist.test_images[:4], mnist.test_labels[:4])

    def fresh(kind):
        place = folder / kind
        place.mkdir()
        for name, array in zip(data.FILES, arrays):
            (place / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        return place

    for kind, (damage, _) in DAMAGE.items():
        place = fresh(kind)
        damage(place / "train-images-idx3-ubyte.gz")
        yield f"MNIST images: {kind}", lambda place=place: data.load(place)
    place = fresh("label 10")
    (place / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.array([1, 2, 3, 10]))))
    yield "MNIST labels: a label of 10", lambda: data.load(place)
    for kind, text in CURVES.items():
        path = folder / "alexnet2.csv"

        def plot(text=text, path=path):
            path.write_text(text)
            plot_results.main([str(path), "--output-dir", str(folder / "pictures")])

        yield f"curve: {kind}", plot
    (folder / "no curves").mkdir()
    yield "a plot folder without a CSV", lambda: plot_results.main([str(folder / "no curves")])
    yield "a curve that is not there", lambda: plot_results.main([str(folder / "alexnet3.csv")])


def main():
    sys.argv[0] = "alexnet1.py"
    with tempfile.TemporaryDirectory() as folder:
        bad = 0
        for name, function in cases(Path(folder)):
            code, text = costs(function)
            bad += code != 2 or text.count("\n") != 1 or "Traceback" in text
            print(f"{name} -> {code}\n    {re.sub(re.escape(folder + os.sep), '', text.strip())}")
    print(f"{bad} cases cost more than one line, or another exit code than 2")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
