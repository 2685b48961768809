"""The digit in your own images, read with the weights of a complete run.

python -m common.predict results/NAME my_digit.png other.jpg
python -m common.predict results/NAME folder --picture seen.png

An image is a scan, a photograph or a screenshot of one digit with some margin,
of any size and colour, dark on light or light on dark. NAME is that of a
complete run. A ? follows a doubtful digit.
"""

import importlib
import itertools
import mimetypes
import os
from pathlib import Path
import re
import sys
import warnings

from common import arguments, data
from common.checkpoint import load, restore
from common.cli import Parser, UserError, no_bar, say, user_errors
from common.ink import SEVERAL, find_ink, shrink
from common.input import resize_tensorflow
from common.results import read_record
from common.session import open_session
from common.step import dropout_seeds
from common.tensorflow import tf
import cv2
from matplotlib.figure import Figure
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

ROOT = Path(__file__).parent.parent
DROPOUT_SAMPLES = 32  # dropout stays on in these networks: a prediction is the mean over N masks
BATCH_NORM_IMAGES = 200  # test digits for the moments of batch norm, as many as in a training batch
BATCH_SIZE = 20  # images in a batch: its predictions are printed at once
STROKE = 0.1  # of the longer side: thinner strokes are widened to this
MIN_LIKENESS = 0.7  # correlation with the closest training digit; 99 % of the test digits have more
UNLIKE = "unlike any digit of MNIST"
MAX_PICTURES = 300  # most images in a picture
LONGEST = 1600  # pixels of an image's longer side: larger images are shrunk first
MAX_PIXELS = 100_000_000  # in an image, which is read whole before it is shrunk
mimetypes.add_type("image/heic", ".heic")  # not in Python before 3.14


def printable(path):
    """A path for one line of output: unprintable characters are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path))


def to_uint8(numbers):
    """An image of floats or wide integers as uint8; white is the first of 1, 255 and 65535 that no value exceeds."""
    numbers = np.nan_to_num(np.asarray(numbers, np.float32), posinf=0, neginf=0)
    white = next((white for white in (1, 255, 65535) if numbers.max() <= white), numbers.max())
    return np.clip(numbers * (255 / white), 0, 255).astype(np.uint8)


def on_background(image):
    """A BGRA image as gray uint8: transparent pixels become white, or black if the opaque ones are light."""
    alpha = image[..., 3] / max(image[..., 3].max(), 1)
    gray = cv2.cvtColor(image, cv2.COLOR_BGRA2GRAY)
    background = 0 if (gray * alpha).sum() > 127 * alpha.sum() else 255
    return (gray * alpha + background * (1 - alpha)).astype(np.uint8)


def read_image(path):
    """An image file upright, as uint8, gray [height, width] or BGR [height, width, 3]; UserError if it is not an image.

    It is shrunk to LONGEST pixels: a photograph of 48 megapixels then takes a tenth of a second.
    """
    too_large = UserError(f"{printable(path)}: larger than {MAX_PIXELS // 10**6} megapixels; shrink it")
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")
            image.draft(None, (LONGEST, LONGEST))  # a JPEG is shrunk as it is read
            if image.width * image.height > MAX_PIXELS:
                raise too_large
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode in ("I", "F") or image.mode.startswith("I;16"):
                return shrink(to_uint8(image), LONGEST)
            image = image.convert("RGBA" if image.has_transparency_data else "L" if image.mode in "1L" else "RGB")
            image.thumbnail((LONGEST, LONGEST))
            pixels = np.array(image)
    except (UserError, MemoryError, Image.DecompressionBombError):
        raise too_large from None
    except UnidentifiedImageError:
        raise UserError(f"{printable(path)}: not an image that can be read; save it as PNG or JPEG") from None
    except Exception as error:  # a decoder may raise anything
        if isinstance(error, OSError) and error.errno:
            raise UserError(f"{printable(path)}: {error.strerror}; name an image, or a folder of images") from None
        raise UserError(f"{printable(path)}: damaged or cut short; copy or save it again") from None
    if pixels.ndim == 2:
        return pixels
    return (
        cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        if pixels.shape[2] == 3
        else on_background(cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA))
    )


def as_mnist(image, path, find=find_ink):
    """(the digit in an image in MNIST's format, uint8 [28, 28], light on black; notes on how it was found).

    image is uint8, gray [height, width] or BGR [height, width, 3]. The digit's longer side becomes 20 pixels, its
    centre of mass moves to pixel 14. UserError, naming path, if there is none.
    """
    found = find(image)
    if found is None:
        raise UserError(f"{printable(path)}: no digit stands out in it; write one, dark on light or light on dark")
    margin = 2 + int(STROKE * max(found.mask.shape))  # wide enough for the strokes to grow
    ink, mask = np.pad(found.share, margin), np.pad(found.mask, margin)
    inside, outside = (cv2.distanceTransform(side.astype(np.uint8), cv2.DIST_L2, 5) for side in (mask, ~mask))
    longer = max(np.ptp(np.flatnonzero(mask.any(axis))) + 1 for axis in (0, 1))
    grow = max(0, STROKE * longer / 2 - inside.max())  # pixels, to either side of a stroke
    ink[outside > grow + 2] = 0  # dust
    if grow:
        ink, mask = np.maximum(ink, np.clip(grow + 1 - outside, 0, 1)), outside <= grow
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, round(20 * side / max(ink.shape))) for side in ink.shape)
    ink = cv2.resize(ink, (width, height), interpolation=cv2.INTER_AREA if max(ink.shape) > 20 else cv2.INTER_LINEAR)
    centre = np.arange(height) @ ink.sum(1) / ink.sum(), np.arange(width) @ ink.sum(0) / ink.sum()
    top, left = (int(np.clip(round(14 - at), 0, 28 - side)) for at, side in zip(centre, ink.shape))
    digit = np.zeros((28, 28), np.uint8)
    digit[top : top + height, left : left + width] = np.round(255 * ink / ink.max())
    return digit, found.notes


def is_image(path):
    """Whether a file is an image, or at least named like one."""
    if (mimetypes.guess_type(path.name)[0] or "").startswith("image/"):
        return True
    try:
        with warnings.catch_warnings(), Image.open(path):
            warnings.simplefilter("ignore")
            return True
    except (OSError, Image.DecompressionBombError):
        return False


def find_images(paths, complain):
    """The files among paths, and the images in the folders among them, as a list of Path.

    complain(message) is called for each folder that has no image or cannot be read. Other files in a folder are named.
    """
    found = []
    for path in paths:
        if not os.path.isdir(path):  # Path.is_dir raises for some paths that lead nowhere
            found.append(path)
            continue
        try:
            files = [each for each in sorted(path.iterdir()) if each.name[0] != "."]
            files = [each for each in files if os.path.isfile(each) or not os.path.exists(each)]  # or a broken link
        except OSError as error:
            complain(f"{printable(path)}: {error.strerror}; make it readable, or name another folder")
            continue
        images = [each for each in files if is_image(each)]
        others = [printable(each.name) for each in files if each not in images]
        if others:
            names = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
            print(f"{printable(path)}: skipped, not images: {names}", file=sys.stderr)
        if not images:
            complain(f"{printable(path)}: no image in this folder; name another, or image files")
        found += images
    return found


def load_network(path):
    """The trained network of the run that path, any file of it with or without its ending, belongs to.

    Raises UserError if the run has no weights, or others than its experiment's.
    """
    name = re.sub(r"\.(csv|json|npz)?$", "", path.name)
    folder = path.parent.parent if path.parent.name == "weights" else path.parent
    record, weights = folder / f"{name}.json", folder / "weights" / f"{name}.npz"
    if not record.exists():
        raise UserError(f"{record}: no such file; RUN is any file of a run, such as results/NAME.json")
    facts = read_record(record)
    if facts.get("nan_weights"):
        raise UserError(f"{record}: the weights of this run turned NaN, none were kept; name another run")
    experiment = str(facts.get("experiment"))
    if not re.fullmatch(r"alexnet\d+", experiment) or not (ROOT / f"{experiment}.py").exists():
        raise UserError(f"{record}: its experiment, {experiment!r}, is not in this repository; name another run")
    try:
        arrays, _ = load(weights)
    except FileNotFoundError:
        old = (
            ", only weights in TensorFlow's format, which commit d22d2a0 reads" * weights.with_suffix(".index").exists()
        )
        raise UserError(
            f"{weights}: no such file{old} (git holds none, a run writes it at its end); run the experiment, with "
            "--restart if it is complete"
        ) from None
    network = importlib.import_module(experiment).AlexNet()
    restore(network, arrays, weights)
    return network


class Predictor:
    """The trained network as a function of MNIST-like digits.

    digits uint8 [n, 28, 28] are those whose moments batch norm uses, if the network has any.
    """

    def __init__(self, network, digits):
        for name in ("weights", "biases", "scales", "betas"):
            part = getattr(network, name, {})
            # Constants, so that TensorFlow computes what all masks share only once.
            setattr(network, name, {key: tf.convert_to_tensor(value) for key, value in part.items()})
        self.network, self.moments = network, {}
        if hasattr(network, "batch_norm"):
            self.epsilon = sys.modules[type(network).__module__].batch_norm_epsilon
            network.batch_norm = self.batch_norm
            network(resize_tensorflow(digits), dropout_seeds(0, 0, 0), training=False)

    def batch_norm(self, name, inputs, training):
        """Normalise every batch by the moments of the first one."""
        if name not in self.moments:
            self.moments[name] = tf.nn.moments(inputs, range(inputs.shape.rank - 1))
        scale, beta = self.network.scales[name], self.network.betas[name]
        return tf.nn.batch_normalization(inputs, *self.moments[name], beta, scale, self.epsilon)

    @tf.function(input_signature=[tf.TensorSpec([None, 28, 28], tf.uint8)], autograph=False)
    def __call__(self, digits):
        """Probabilities [n, 10] of digits uint8 [n, 28, 28]: the mean over DROPOUT_SAMPLES dropout masks."""
        pixels = resize_tensorflow(digits)
        outputs = [self.network(pixels, dropout_seeds(0, 0, mask), False)["output"] for mask in range(DROPOUT_SAMPLES)]
        return tf.reduce_mean(tf.nn.softmax(outputs), axis=0)


def in_batches(predict, digits):
    """Probabilities [n, 10] of digits uint8 [n, 28, 28], however many they are; predict is a Predictor."""
    return np.concatenate([predict(digits[at : at + BATCH_SIZE]).numpy() for at in range(0, len(digits), BATCH_SIZE)])


class Likeness:
    """How like MNIST a digit is: its correlation, from -1 to 1, with the closest of the training digits.

    digits uint8 [n, 28, 28]. 1 % of 2,000 test digits are below 0.7; 77 of 80 images of numbers and words are.
    """

    def __init__(self, digits):
        self.known = self.normalise(digits).T

    def normalise(self, digits):
        rows = digits.reshape(len(digits), -1).astype(np.float32)
        rows -= rows.mean(axis=1, keepdims=True)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def __call__(self, digits):
        return (self.normalise(digits) @ self.known).max(axis=1)


def answers(predict, likeness, digits, notes):
    """Yield (probabilities [10], notes, whether doubtful) for digits uint8 [n, 28, 28] and the notes on each."""
    for row, alike, said in zip(in_batches(predict, digits), likeness(digits), notes):
        if alike < MIN_LIKENESS:
            said = (*said, UNLIKE)
        yield row, said, row.max() < 0.5 or not {SEVERAL, UNLIKE}.isdisjoint(said)


def draw_digits(path, digits, captions):
    """Write a PNG of the digits uint8 [n, 28, 28], resized to 227x227 as the network gets them, with captions."""
    columns = min(len(digits), 6)
    rows = -(-len(digits) // columns)
    figure = Figure(figsize=(2 * columns, 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, pixels, caption in zip(axes, resize_tensorflow(digits).numpy(), captions):
        axis.imshow(pixels, cmap="gray", vmin=0, vmax=1)
        axis.set_title(caption, fontsize=8, parse_math=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a file's name may have characters that the font lacks
        figure.savefig(path, format="png")


def check_picture(picture, paths):
    """Raise UserError if --picture cannot be written, or would overwrite one of the images."""
    what = f"--picture {printable(picture)}"
    if not os.path.isdir(picture.parent):
        raise UserError(f"{what}: no such folder; make it, or name another")
    if os.path.isdir(picture) or not os.access(picture if picture.exists() else picture.parent, os.W_OK):
        raise UserError(f"{what}: cannot be written; name another file")
    if os.path.realpath(picture) in map(os.path.realpath, paths):
        raise UserError(f"{what}: this is one of your images; name another file")
    if len(paths) > MAX_PICTURES:
        raise UserError(
            f"--picture: there are {len(paths)} images, more than {MAX_PICTURES}; name fewer or leave it out"
        )


def prepare(paths, complain):
    """Yield lists of up to BATCH_SIZE (path, digit, notes); call complain(message) for an image without a digit."""
    with tqdm(paths, unit=" images", leave=False, disable=no_bar() if len(paths) > BATCH_SIZE else True) as bar:
        prepared = []
        for number, path in enumerate(bar, 1):
            try:
                prepared.append((path, *as_mnist(read_image(path), path)))
            except UserError as error:
                complain(error)
            if prepared and (len(prepared) == BATCH_SIZE or number == len(paths)):
                yield prepared
                prepared = []


def main():
    parser = Parser(__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="any file of a complete run, with or without its ending")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="an image, or a folder of images")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="a PNG of what the network saw")
    parser.add_argument("--device", type=arguments.device, default="auto", metavar="D", help="auto, cpu, gpu or gpu:N")
    args = parser.parse_args()
    complaints = []

    def complain(message):
        complaints.append(message)
        tqdm.write(f"{parser.prog}: error: {message}", file=sys.stderr)

    paths = find_images(args.images, complain)
    if args.picture:
        check_picture(args.picture, paths)
    digits, captions = [], []
    batches = prepare(paths, complain)
    first = next(batches, None)  # no network is built if no image has a digit
    if first:
        device, _ = open_session(args.device)
        with tf.device(device):
            mnist = data.load()
            predict = Predictor(load_network(args.run), mnist.test_images[:BATCH_NORM_IMAGES])
            likeness = Likeness(mnist.train_images)
            say(f"digit {''.join(f'{digit:4}' for digit in range(10))} %  image")
            for batch in itertools.chain([first], batches):
                names, seen, notes = zip(*batch)
                for path, (row, said, doubt) in zip(names, answers(predict, likeness, np.array(seen), notes)):
                    digit = f"{row.argmax()}{'?' if doubt else ''}"
                    shares = "".join(f"{100 * share:4.0f}" for share in row)
                    remark = f" ({', '.join(said)})" if said else ""
                    say(f"{row.argmax():5}{'?' if doubt else ' '}{shares}   {printable(path)}{remark}")
                    captions.append(f"{digit}, {100 * row.max():.0f} %\n{printable(path.name)[-28:]}")
                digits += seen
            if args.picture:
                draw_digits(args.picture, np.array(digits), captions)
                say(f"{printable(args.picture)} shows what the network saw")
    if complaints:
        sys.exit(2)


if __name__ == "__main__":
    with user_errors():
        main()
