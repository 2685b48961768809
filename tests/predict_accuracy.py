"""How often common.predict is right: on printed digits, 9,000 test images, and imitated photographs of digits.

python -m tests.predict_accuracy RUN ...   (RUN as for common.predict; about 8 minutes each on 2 cores)

Every image is written to a PNG and read back like a user's. The fonts are those with digits that Matplotlib ships. The
test images are those after the first 1,000, which no evaluation and no moments of batch norm have seen. The
photographs, drawn by tests/photographs.py, show 50 of them, the same in each kind; "plain" counts right answers by the
threshold alone, without background subtraction and frames, "marked" answers with a question mark or a note.
"""

from pathlib import Path
import tempfile

from common import arguments, data
from common.cli import Parser, UserError, user_errors
from common.ink import by_threshold
from common.predict import (
    BATCH_NORM_IMAGES,
    DROPOUT_SAMPLES,
    Likeness,
    Predictor,
    answers,
    as_mnist,
    in_batches,
    load_network,
    read_image,
)
from common.session import open_session
from common.tensorflow import tf
import cv2
import matplotlib
from matplotlib.figure import Figure
import numpy as np

from tests import photographs

# All except the slanted DejaVu Sans Mono, whose digits are those of DejaVu Sans.
DEJAVU = ["Sans", "Sans-Bold", "Sans-Oblique", "Sans-BoldOblique", "SansMono", "SansMono-Bold"]
DEJAVU += ["Serif", "Serif-Bold", "Serif-Italic", "Serif-BoldItalic"]
STIX = ["General", "GeneralBol", "GeneralItalic", "GeneralBolIta"]
COMPUTER_MODERN = ["r10", "b10", "ss10", "tt10", "ti10", "mi10"]
FONTS = [f"DejaVu{name}" for name in DEJAVU] + [f"STIX{name}" for name in STIX] + [f"cm{n}" for n in COMPUTER_MODERN]
FONT_FOLDER = Path(matplotlib.get_data_path(), "fonts", "ttf")


def print_digit(digit, font, path):
    """Write a PNG of 200x200 pixels with a digit in black on white, about 100 pixels high."""
    figure = Figure(figsize=(2, 2), dpi=100)
    figure.text(0.5, 0.5, str(digit), font=FONT_FOLDER / f"{font}.ttf", size=90, ha="center", va="center")
    figure.savefig(path)


def read_back(path):
    return as_mnist(read_image(path), path)[0]


def threshold_only(image):
    return by_threshold(image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))


def answer_photographs(kind, count, predictor, likeness, path, find):
    """For each image of a kind None if it is refused, else (whether its digit is right, notes, whether doubtful)."""
    digits, notes, labels, found = [], [], [], []
    for number in range(count):
        image, label = photographs.photograph(kind, number)
        cv2.imwrite(str(path), image)
        try:
            digit, said = as_mnist(read_image(path), path, find)
        except UserError:
            continue
        found.append(number)
        digits.append(digit)
        notes.append(said)
        labels.append(label)
    results = [None] * count
    if digits:
        for number, label, (row, said, doubt) in zip(
            found, labels, answers(predictor, likeness, np.array(digits), notes)
        ):
            results[number] = row.argmax() == label, said, doubt
    return results


def print_photographs(count, predictor, likeness, path):
    """Print the table of kinds."""
    print(f"  of {count} images of each kind              plain   right  refused  marked ?  marked by a note  neither")
    for kind in photographs.KINDS:
        plain = answer_photographs(kind, count, predictor, likeness, path, threshold_only)
        results = answer_photographs(kind, count, predictor, likeness, path, as_mnist.__defaults__[0])
        hits, right = (sum(bool(each and each[0]) for each in some) for some in (plain, results))
        first = f"{hits:7} {right:7}" if kind not in photographs.NO_DIGIT else f"{'-':>7} {'-':>7}"
        given = [each for each in results if each]
        doubt, noted = sum(each[2] for each in given), sum(bool(each[1]) and not each[2] for each in given)
        rest = f"{count - len(given):8} {doubt:9} {noted:17} {len(given) - doubt - noted:8}"
        print(f"    {kind:38}{first}{rest}", flush=True)


def right(predictor, digits, labels):
    """(the digits predicted for uint8 [n, 28, 28], the accuracy as text)."""
    predicted = in_batches(predictor, digits).argmax(axis=1)
    hits = predicted == labels
    return predicted, f"{hits.mean():.4f} ({hits.sum()} of {len(hits)})"


def main():
    parser = Parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--test-images", type=arguments.integer(1, 9000), default=9000, metavar="N", help="of the 9000")
    parser.add_argument("--photographs", type=arguments.integer(1, 1000), default=50, metavar="N", help="of each kind")
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
    device, _ = open_session()
    print(f"Mean of {DROPOUT_SAMPLES} dropout masks; ", end="")
    print(f"batch norm by the moments of the first {BATCH_NORM_IMAGES} test images")
    for run in args.runs:
        with tf.device(device):
            predictor = Predictor(load_network(run), mnist.test_images[:BATCH_NORM_IMAGES])
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
        with tf.device(device), tempfile.TemporaryDirectory() as folder:
            print_photographs(args.photographs, predictor, Likeness(mnist.train_images), Path(folder, "photograph.png"))


if __name__ == "__main__":
    with user_errors():
        main()
