"""How often common.predict is right: on printed digits of 20 fonts and on 9,000 test images.

python -m tests.predict_accuracy RUN ...   (RUN as for common.predict; about 3 minutes each on 2 cores)

Every image is written to a PNG and read back as a user's. The fonts are those with digits that Matplotlib ships. The
test images are those after the first 1,000, which no evaluation and no moments of batch norm have seen.
"""

import argparse
from pathlib import Path
import tempfile

from common import arguments, data
from common.cli import Parser, user_errors
from common.predict import COMPANIONS, MASKS, Predictor, as_mnist, in_batches, load_network, read_gray
from common.session import open_session, tf
import cv2
import matplotlib
from matplotlib.figure import Figure
import numpy as np

# All but the slanted DejaVu Sans Mono, whose digits are those of DejaVu Sans.
DEJAVU = ["Sans", "Sans-Bold", "Sans-Oblique", "Sans-BoldOblique", "SansMono", "SansMono-Bold"]
DEJAVU += ["Serif", "Serif-Bold", "Serif-Italic", "Serif-BoldItalic"]
STIX = ["General", "GeneralBol", "GeneralItalic", "GeneralBolIta"]
COMPUTER_MODERN = ["r10", "b10", "ss10", "tt10", "ti10", "mi10"]
FONTS = [f"DejaVu{name}" for name in DEJAVU] + [f"STIX{name}" for name in STIX] + [f"cm{n}" for n in COMPUTER_MODERN]
FONT_FOLDER = Path(matplotlib.get_data_path(), "fonts", "ttf")


def print_digit(digit, font, path):
    """Write a PNG of 200x200 pixels with a digit in black on white, 100 pixels high or so."""
    figure = Figure(figsize=(2, 2), dpi=100)
    figure.text(0.5, 0.5, str(digit), font=FONT_FOLDER / f"{font}.ttf", size=90, ha="center", va="center")
    figure.savefig(path)


def read_back(path):
    return as_mnist(read_gray(path), path)


def right(predictor, digits, labels):
    """(the digits predicted for uint8 [n, 28, 28], a line that says how many are right)."""
    predicted = in_batches(predictor, digits).argmax(axis=1)
    hits = predicted == labels
    return predicted, f"{hits.mean():.4f} ({hits.sum()} of {len(hits)})"


def main():
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--test-images", type=arguments.whole(1, 9000), default=9000, metavar="N", help="of the 9000")
    args = parser.parse_args()
    mnist = data.load()
    chosen = slice(1000, 1000 + args.test_images)
    images, labels = mnist.test_images[chosen], mnist.test_labels[chosen]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "digit.png")
        printed, written = [], []
        for font in FONTS:
            for digit in range(10):
                print_digit(digit, font, path)
                printed.append(read_back(path))
        for image in images:
            cv2.imwrite(str(path), image)
            written.append(read_back(path))
    printed_labels = np.tile(np.arange(10), len(FONTS))
    device, _ = open_session(arguments.parse("predict_accuracy", None, []))
    print(f"Mean of {MASKS} dropout masks; batch norm by the moments of the first {COMPANIONS} test images")
    for run in args.runs:
        with tf.device(device):
            predictor = Predictor(load_network(run), mnist.test_images[:COMPANIONS])
            print(f"\n{run.name}")
            _, line = right(predictor, images, labels)
            print(f"  test images as they are         {line}")
            _, line = right(predictor, np.array(written), labels)
            print(f"  the same as PNG, read back      {line}", flush=True)
            predicted, line = right(predictor, np.array(printed), printed_labels)
            print(f"  printed digits                  {line}")
        print(f"    digit read as {''.join(f'{digit:4}' for digit in range(10))}")
        for digit in range(10):
            counts = np.bincount(predicted[printed_labels == digit], minlength=10)
            print(f"    {digit:13} {''.join(f'{count:4}' if count else '   .' for count in counts)}")
        wrong = (predicted != printed_labels).reshape(len(FONTS), 10)
        for font, row in zip(FONTS, wrong):
            if row.any():
                print(f"    wrong in {font + ':':24} {', '.join(map(str, np.flatnonzero(row)))}")


if __name__ == "__main__":
    with user_errors():
        main()
