"""The digit in images of your own, by the weights that a run has kept.

python -m common.predict results/NAME my_digit.png other.jpg
python -m common.predict results/NAME folder --picture seen.png

An image holds one digit on plain, evenly lit ground with some margin, of any
size and colour, dark on light or light on dark. NAME is that of a complete run.
"""

import argparse
import importlib
from pathlib import Path
import re
import sys
import warnings

from common import arguments, data
from common.checkpoint import load, restore
from common.cli import Parser, UserError, user_errors
from common.input import resize_tensorflow
from common.results import read_record
from common.session import open_session, quiet_stderr, tf
from common.training import dropout_seeds
import cv2
from matplotlib.figure import Figure
import numpy as np

ROOT = Path(__file__).parent.parent
MASKS = 32  # dropout stays on in these networks: an answer is the mean over so many masks
COMPANIONS = 200  # test digits that batch norm takes its moments of, as many as a training batch has
AT_ONCE = 100  # images in a batch
CONTRAST = 20  # of 255, between digit and ground
STROKE = 0.1  # of the longer side: thinner strokes are made as wide
PICTURE = 300  # images at most in a picture
DUST = 0.02  # of the largest piece of ink: what is smaller is none of the digit


def read_gray(path):
    """An image file as gray uint8 [height, width]; UserError if it is none.

    What is transparent becomes white, or black where the rest is light.
    """
    try:
        content = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; name an image, or a folder of images") from None
    with quiet_stderr():
        try:
            image, gray = (cv2.imdecode(content, flag) for flag in (cv2.IMREAD_UNCHANGED, cv2.IMREAD_GRAYSCALE))
        except cv2.error:
            image = None
    if image is None:
        raise UserError(f"{path}: not an image that OpenCV reads; save it as PNG or JPEG")
    if image.ndim < 3 or image.shape[2] < 4 or image.dtype.kind != "u":
        return gray
    alpha = image[..., 3] / max(image[..., 3].max(), 1)
    gray = cv2.cvtColor(image, cv2.COLOR_BGRA2GRAY) * (255 / np.iinfo(image.dtype).max)
    ground = 0 if (gray * alpha).sum() > 127 * alpha.sum() else 255
    return (gray * alpha + ground * (1 - alpha)).astype(np.uint8)


def find_ink(gray, path):
    """(ink, mask) of a gray uint8 image: the share of pen in each pixel, float32, and which belong to the digit.

    Both have a margin, wide enough for the strokes to grow. UserError, naming path, if there is no digit.
    """
    threshold, _ = cv2.threshold(gray, 0, 255, cv2.THRESH_OTSU)
    frame = np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])
    if np.median(frame) > threshold:
        gray, threshold = 255 - gray, 254 - threshold
    mask = gray > threshold
    dark, light = (np.median(gray[side]) if side.any() else 0 for side in (~mask, mask))
    if light - dark < CONTRAST:
        raise UserError(f"{path}: no digit stands out in it; write one, dark on light or light on dark")
    margin = 2 + int(STROKE * max(gray.shape))
    ink = np.pad(np.clip((gray.astype(np.float32) - dark) / (light - dark), 0, 1), margin)
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(np.pad(mask.astype(np.uint8), margin))
    areas = stats[:, cv2.CC_STAT_AREA]
    areas[0] = 0  # the ground
    return ink, (areas >= DUST * areas.max())[pieces]


def as_mnist(gray, path):
    """The digit in a gray uint8 [height, width] as MNIST has its own: uint8 [28, 28], light on black.

    Its longer side becomes 20 pixels, its centre of mass pixel 14. UserError, naming path, if there is none.
    """
    ink, mask = find_ink(gray, path)
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
    return digit


def find_images(paths):
    """The files among paths, and the images in the folders among them, as a list of Path."""
    found = []
    for path in paths:
        files = [path]
        if path.is_dir():
            files = [each for each in sorted(path.iterdir()) if each.is_file() and cv2.haveImageReader(str(each))]
        if not files:
            raise UserError(f"{path}: no image in this folder; name another, or image files")
        found += files
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
        raise UserError(f"{record}: its experiment is {experiment!r}, none of this repository; name another run")
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

    digits uint8 [n, 28, 28], those that batch norm takes its moments of, if the network has any.
    """

    def __init__(self, network, digits):
        for name in ("weights", "biases", "scales", "betas"):
            part = getattr(network, name, {})
            # Constants, so that TensorFlow computes once what all masks share.
            setattr(network, name, {key: tf.convert_to_tensor(value) for key, value in part.items()})
        self.network, self.moments = network, {}
        if hasattr(network, "batch_norm"):
            self.epsilon = sys.modules[type(network).__module__].batch_norm_epsilon
            network.batch_norm = self.batch_norm
            network(resize_tensorflow(digits), dropout_seeds(0, 0, 0), training=False)

    def batch_norm(self, name, inputs, training):
        """Normalise by the moments of the batch that came first, whatever batch follows."""
        if name not in self.moments:
            self.moments[name] = tf.nn.moments(inputs, range(inputs.shape.rank - 1))
        scale, beta = self.network.scales[name], self.network.betas[name]
        return tf.nn.batch_normalization(inputs, *self.moments[name], beta, scale, self.epsilon)

    @tf.function(input_signature=[tf.TensorSpec([None, 28, 28], tf.uint8)])
    def __call__(self, digits):
        """Probabilities [n, 10] of digits uint8 [n, 28, 28]: the mean over MASKS dropout masks."""
        pixels = resize_tensorflow(digits)
        outputs = [self.network(pixels, dropout_seeds(0, 0, mask), False)["output"] for mask in range(MASKS)]
        return tf.reduce_mean(tf.nn.softmax(outputs), axis=0)


def in_batches(predict, digits):
    """Probabilities [n, 10] of digits uint8 [n, 28, 28], however many they are; predict is a Predictor."""
    return np.concatenate([predict(digits[at : at + AT_ONCE]).numpy() for at in range(0, len(digits), AT_ONCE)])


def draw(path, digits, captions):
    """Write a PNG of the digits uint8 [n, 28, 28] at the 227x227 that the network is given, each with its caption."""
    columns = min(len(digits), 6)
    rows = -(-len(digits) // columns)
    figure = Figure(figsize=(2 * columns, 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, pixels, caption in zip(axes, resize_tensorflow(digits).numpy(), captions):
        axis.imshow(pixels, cmap="gray", vmin=0, vmax=1)
        axis.set_title(caption, fontsize=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a file's name may have letters that the font lacks
        figure.savefig(path, format="png")


def main():
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="any file of a complete run, its ending may be left out")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="an image, or a folder of images")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="a PNG of the images as the network saw them")
    parser.add_argument("--device", type=arguments.device, default="auto", metavar="D", help="auto, cpu, gpu or gpu:N")
    args = parser.parse_args()
    paths = find_images(args.images)
    if args.picture and args.picture.resolve() in [path.resolve() for path in paths]:
        raise UserError(f"--picture {args.picture}: this is one of your images; name another file")
    if args.picture and len(paths) > PICTURE:
        raise UserError(f"--picture: there are {len(paths)} images, more than {PICTURE}; name fewer or leave it out")
    digits = np.array([as_mnist(read_gray(path), path) for path in paths])
    device, _ = open_session(arguments.parse("predict", None, ["--device", args.device]))
    with tf.device(device):
        predict = Predictor(load_network(args.run), data.load().test_images[:COMPANIONS])
        probabilities = in_batches(predict, digits)
        captions = []
        print(f"digit {''.join(f'{digit:4}' for digit in range(10))} %  image")
        for path, row in zip(paths, probabilities):
            print(f"{row.argmax():5} {''.join(f'{100 * share:4.0f}' for share in row)}    {path}")
            captions.append(f"{row.argmax()}, {100 * row.max():.0f} %\n{path.name[-28:]}")
        if args.picture:
            draw(args.picture, digits, captions)
            print(f"{args.picture} shows what the network saw")


if __name__ == "__main__":
    with user_errors():
        main()
