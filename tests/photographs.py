"""Images as users send them: digits of MNIST's test set redrawn with a pen, and some without a digit.

The same kind and number always give the same image. Number n shows the same digit, of the same size at the same place,
in every kind, so that a kind can be read against "a clean sheet".
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple
import zlib

from common import data
import cv2
import matplotlib
import numpy as np

load_mnist = cache(data.load)
FIRST = 1000  # of the test digits: from here on, no evaluation and no moments of batch norm see them
PAPER, INK = 232.0, 40.0  # gray


def thin(mask):
    """The skeleton of a bool image: Zhang and Suen's thinning (1984)."""
    image = np.pad(mask, 1).astype(np.uint8)
    while True:
        before = image.copy()
        for first in (True, False):
            around = [np.roll(image, move, (0, 1)) for move in
                      [(1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1)]]  # fmt: skip
            up, _, right, _, down, _, left, _ = around
            count = sum(around)
            steps = sum((one == 0) & (two == 1) for one, two in zip(around, [*around[1:], up]))
            clear = (up & right & down, right & down & left) if first else (up & right & left, up & down & left)
            image[(image == 1) & (count >= 2) & (count <= 6) & (steps == 1) & (clear[0] == 0) & (clear[1] == 0)] = 0
        if (image == before).all():
            return image[1:-1, 1:-1] > 0


@cache
def strokes(number):
    """(pen strokes, lines [n, 2 ends, (x, y)] of a digit of height 1 around the origin; its label)."""
    mnist = load_mnist()
    digit = mnist.test_images[FIRST + number]
    skeleton = thin(cv2.resize(digit, (112, 112), interpolation=cv2.INTER_CUBIC) > 110)
    lines = [
        [[x, y], [x + right, y + down]]
        for y, x in np.argwhere(skeleton)
        for right, down in ((1, 0), (0, 1), (1, 1), (-1, 1), (0, 0))
        if skeleton[(y + down) % 112, (x + right) % 112]
    ]
    lines = np.array(lines, float)
    low, high = lines.min((0, 1)), lines.max((0, 1))
    return (lines - (low + high) / 2) / (high[1] - low[1] + 1), int(mnist.test_labels[FIRST + number])


class Sheet(NamedTuple):
    """A sheet with a digit: its shape (height, width), and the digit's centre (x, y), height and pen in pixels."""

    number: int
    shape: tuple
    centre: tuple
    height: float
    pen: float  # pixels

    def cover(self, pen=1.0):
        """The share of ink in each pixel, float32 [height, width], with a pen scaled by a factor."""
        return draw(self.number, self.shape, self.centre, self.height, self.pen * pen)


def draw(number, shape, centre, height, pen):
    lines, _ = strokes(number)
    canvas = np.zeros(shape, np.uint8)
    ends = np.round((lines * height + centre) * 16).astype(np.int32)
    cv2.polylines(canvas, list(ends), False, 255, max(1, round(pen)), cv2.LINE_AA, 4)
    return canvas / np.float32(255)


def lay_out(number, shapes=((600, 450), (480, 640), (600, 600), (640, 480))):
    """The sheet of a number."""
    rng = np.random.default_rng([1, number])
    shape = shapes[rng.integers(len(shapes))]
    height = rng.uniform(0.35, 0.6) * min(shape)
    extent = 2.2 * abs(strokes(number)[0]).max((0, 1)) * height
    centre = tuple(
        side / 2 + rng.uniform(-0.4, 0.4) * max(0, side - 1.2 * size) / 2 for side, size in zip(shape[::-1], extent)
    )
    return Sheet(number, shape, centre, height, rng.uniform(0.06, 0.11) * height)


def across(shape, rng):
    """A ramp from -1 to 1 in a random direction, float32 [height, width]."""
    y, x = (np.linspace(-1, 1, side) for side in shape)
    angle = rng.uniform(0, 2 * np.pi)
    plane = np.add.outer(np.sin(angle) * y, np.cos(angle) * x)
    return (plane / plane.max()).astype(np.float32)


def write(cover, paper=PAPER, ink=INK):
    """Gray or BGR floats of ink on paper; either may be a number, a colour or an image."""
    paper, ink = (np.asarray(each, np.float32) for each in (paper, ink))
    if paper.shape[-1:] == (3,) or ink.shape[-1:] == (3,):
        cover = cover[..., np.newaxis]
    return paper * (1 - cover) + ink * cover


def expose(scene, rng, noise=2.0, quality=92):
    """The photograph of a scene, gray or BGR: noise, and JPEG's traces."""
    scene = np.clip(scene + noise * rng.standard_normal(scene.shape), 0, 255)
    return cv2.imdecode(cv2.imencode(".jpg", scene.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])[1], -1)


def falling_off(low):
    def image(sheet, rng):
        light = 1 - (1 - low) * np.clip(across(sheet.shape, rng) * rng.uniform(0.5, 0.8) + 0.4, 0, 1)
        return expose(write(sheet.cover()) * light, rng)

    return image


def shadow(factor):
    def image(sheet, rng):
        edge = across(sheet.shape, rng) + rng.uniform(-0.4, 0.4)
        softness = rng.uniform(1, 40) / max(sheet.shape)
        return expose(write(sheet.cover()) * (1 - (1 - factor) * np.clip(edge / softness + 0.5, 0, 1)), rng)

    return image


def vignette(shape, low):
    y, x = (np.linspace(-1, 1, side) for side in shape)
    return 1 - (1 - low) * np.add.outer(y**2, x**2) / 2


def blob(shape, rng, size):
    """A bright spot of up to 1 at a random place; size as a fraction of the image."""
    y, x = (np.arange(side) for side in shape)
    at = [rng.uniform(0.2, 0.8) * side for side in shape]
    return np.exp(-np.add.outer((y - at[0]) ** 2, (x - at[1]) ** 2) / (2 * (size * max(shape)) ** 2))


def whiteboard(sheet, rng):
    pens = [(80, 120, 30), (160, 60, 40), (50, 40, 180), (50, 50, 50)]
    board = write(sheet.cover(), (205, 200, 195), pens[rng.integers(len(pens))])
    for _ in range(3):
        board *= 1 - rng.uniform(0.05, 0.15) * blob(sheet.shape, rng, 0.06)[..., np.newaxis]
    board *= 0.9 + 0.15 * across(sheet.shape, rng)[..., np.newaxis]
    glare = rng.uniform(0.6, 0.95) * blob(sheet.shape, rng, rng.uniform(0.04, 0.1))[..., np.newaxis]
    return expose(board * (1 - glare) + 255 * glare, rng)


def desk(shape, rng):
    """A dark desk, BGR, with some grain."""
    grain = cv2.GaussianBlur(rng.standard_normal(shape), (0, 0), 1, sigmaY=12)
    return np.multiply.outer(1 + 0.8 * grain, rng.uniform(0.5, 1) * np.array([50, 70, 90])).astype(np.float32)


def on_a_desk(sheet, rng):
    """The digit's part of the sheet, slightly rotated, on a desk."""
    sides = np.array(sheet.shape[::-1])
    reach = abs(strokes(sheet.number)[0]).max((0, 1)) * sheet.height + abs(np.array(sheet.centre) - sides / 2)
    size = np.minimum(2.2 * reach + 0.1 * sides, 0.94 * sides)
    corners = cv2.boxPoints((tuple(map(float, sides / 2)), tuple(map(float, size)), rng.uniform(-4, 4)))
    inside = cv2.fillPoly(np.zeros(sheet.shape, np.uint8), [np.round(corners).astype(int)], 1)
    scene = write(sheet.cover(), (222, 230, 232), (45, 40, 40))
    return expose(np.where(inside[..., np.newaxis] > 0, scene, desk(sheet.shape, rng)), rng)


def edge_of_a_desk(sheet, rng):
    """The sheet fills the image except for a strip along one side."""
    height, width = sheet.shape
    free = [sheet.centre[0], width - sheet.centre[0], sheet.centre[1], height - sheet.centre[1]]
    side = int(np.argmax(free))
    depth = rng.uniform(0.3, 0.9) * (free[side] - 0.7 * sheet.height)
    along = np.linspace(-1, 1, (height, width)[side // 2]) * rng.uniform(-0.2, 0.2) * depth + depth
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    away = [x, width - 1 - x, y, height - 1 - y][side]
    on_desk = away < (along[:, np.newaxis] if side < 2 else along)
    scene = write(sheet.cover(), (222, 230, 232), (45, 40, 40))
    return expose(np.where(on_desk[..., np.newaxis], desk(sheet.shape, rng), scene), rng)


def canvas(sheet, rng):
    """A drawing program's: black on white, or white on black."""
    return write(sheet.cover(), *((255, 0) if rng.random() < 0.5 else (0, 255)))


def frame(image, width, gray):
    image[:width] = image[-width:] = image[:, :width] = image[:, -width:] = gray
    return image.astype(np.uint8)


def border(sheet, rng):
    image = canvas(sheet, rng)
    return frame(image, 2, 255 - image[0, 0])


def gray_border(sheet, rng):
    return frame(canvas(sheet, rng), rng.integers(3, 9), rng.integers(100, 160))


def page(sheet, rng):
    """The canvas, with a thin frame, on a light or a dark page."""
    inner = frame(canvas(sheet, rng), rng.integers(1, 4), rng.integers(90, 170))
    above, below, left, right = rng.integers(20, 160, 4)
    ground = (255, 240, 30)[rng.integers(3)]
    return cv2.copyMakeBorder(inner, above, below, left, right, cv2.BORDER_CONSTANT, value=ground)


def page_with_text(sheet, rng):
    image = cv2.copyMakeBorder(page(sheet, rng), 60, 60, 0, 0, cv2.BORDER_REPLICATE)
    ink = 0 if image[0, 0] > 127 else 255
    for text, y in ("Draw a digit here", 40), ("Clear   Predict", image.shape[0] - 25):
        cv2.putText(image, text, (20, y), cv2.FONT_HERSHEY_SIMPLEX, 0.9, ink, 2, cv2.LINE_AA)
    return image


def rounded(sheet, rng):
    height, width = sheet.shape
    radius = int(rng.uniform(0.05, 0.15) * width)
    alpha = np.zeros(sheet.shape, np.uint8)
    cv2.rectangle(alpha, (radius, radius), (width - 1 - radius, height - 1 - radius), 255, 2 * radius, cv2.LINE_AA)
    alpha[radius:-radius, radius:-radius] = 255
    gray = canvas(sheet, rng).astype(np.uint8)
    return np.dstack([gray * (alpha > 0)] * 3 + [alpha])


def squares(shape, rng, width):
    """The share of line in each pixel of squared paper, float32 [height, width]."""
    step, image = rng.uniform(0.035, 0.07) * max(shape), np.zeros(shape, np.uint8)
    turn = cv2.getRotationMatrix2D((0, 0), rng.uniform(-2, 2), 1)[:, :2]
    reach = 2 * max(shape)
    for at in np.arange(-reach, reach, step):
        for ends in ([[at, -reach], [at, reach]], [[-reach, at], [reach, at]]):
            ends = np.round(np.array(ends) @ turn.T * 16).astype(int)
            cv2.line(image, *map(tuple, ends.tolist()), 255, width, cv2.LINE_AA, 4)
    return image / np.float32(255)


def squared(line):
    def image(sheet, rng):
        paper = write(squares(sheet.shape, rng, int(rng.integers(1, 4))), (230, 232, 232), line)
        return expose(write(sheet.cover(), paper, (60, 40, 40)), rng)

    return image


def small(light, noise):
    """The digit has 5 % of the height."""

    def image(sheet, rng):
        cover = lay_out_small(sheet.number, rng).cover()
        return expose(write(cover) * vignette(cover.shape, light), rng, noise)

    return image


def lay_out_small(number, rng, height=0.05):
    shape = (1200, 1600)
    centre = rng.uniform(0.15, 0.85, 2) * shape[::-1]
    return Sheet(number, shape, tuple(centre), height * shape[0], 0.1 * height * shape[0])


def green_on_red(sheet, rng):
    """Of equal luminance, up to a level or two."""
    red, green = rng.uniform(180, 220), rng.uniform(125, 140)
    paper = np.array([58, 58, red])
    luminance = 0.114 * paper[0] + 0.587 * paper[1] + 0.299 * paper[2]
    ink = [60, green, np.clip((luminance - 0.587 * green - 0.114 * 60) / 0.299, 0, 255)]
    return expose(write(sheet.cover(), paper, ink), rng)


def ruled(shape, rng, step=0.08):
    image = np.zeros(shape, np.float32)
    for y in np.arange(rng.uniform(0, step), 1, step):
        image[int(y * shape[0])] = 1
    return image


def noise(sheet, rng):
    return expose(write(sheet.cover()), rng, 12)


def dust(sheet, rng):
    image = write(sheet.cover())
    for x, y in (rng.uniform(0, 1, (25, 2)) * sheet.shape[::-1]).astype(int):
        cv2.circle(image, (int(x), int(y)), 1, 90, -1)
    return expose(image, rng)


def pencil(sheet, rng):
    grain = rng.uniform(0.5, 1, sheet.shape)
    return expose(write(sheet.cover(0.6) * grain, PAPER, 130), rng)


def blue_on_yellow(sheet, rng):
    return expose(write(sheet.cover(), (150, 225, 235), (150, 60, 40)), rng)


def on_nothing(sheet, rng):
    alpha = np.round(255 * sheet.cover()).astype(np.uint8)
    return np.dstack([np.full((*alpha.shape, 3), rng.choice([0, 255]), np.uint8), alpha])


CLEAN = {
    "a clean sheet": lambda sheet, rng: expose(write(sheet.cover()), rng),
    "light on dark": lambda sheet, rng: expose(write(sheet.cover(), 25, 230), rng),
    "a thin pen": lambda sheet, rng: expose(write(sheet.cover(0.3)), rng),
    "noise": noise,
    "dust": dust,
    "pencil": pencil,
    "ruled paper": lambda sheet, rng: expose(write(sheet.cover(), write(ruled(sheet.shape, rng), PAPER, 170)), rng),
    "blue on yellow": blue_on_yellow,
    "on nothing": on_nothing,
}
DEGRADED = {
    "light falling off to .5": falling_off(0.5),
    "light falling off to .3": falling_off(0.3),
    **{f"a shadow's edge, x {factor}": shadow(factor) for factor in (0.75, 0.6, 0.45, 0.3)},
    "vignette to .4": lambda sheet, rng: expose(write(sheet.cover()) * vignette(sheet.shape, 0.4), rng),
    "whiteboard with glare": whiteboard,
    "sheet on a dark desk": on_a_desk,
    "edge of the desk in view": edge_of_a_desk,
    "screenshot, 2 px border": border,
    "canvas with a gray border": gray_border,
    "page around the canvas": page,
    "page with text": page_with_text,
    "rounded transparent corners": rounded,
    "squared paper, strong": squared((125, 125, 125)),
    "squared paper, blue": squared((210, 140, 90)),
    "digit of 5 % of the height, noise": small(1, 5),
    "digit of 5 % of the height, vignette": small(0.6, 2),
    "green on red, equal luminance": green_on_red,
}


def empty(scene):
    return lambda sheet, rng: expose(scene(np.full(sheet.shape, PAPER, np.float32), rng), rng)


def several(count):
    def image(sheet, rng):
        """Digits beside each other."""
        height, width = 400, 150 + 200 * count
        cover = np.zeros((height, width), np.float32)
        for place in range(count):
            at = (175 + 200 * place + rng.uniform(-15, 15), 200 + rng.uniform(-15, 15))
            cover = np.maximum(cover, draw(sheet.number + 100 * place, cover.shape, at, rng.uniform(160, 200), 16))
        return expose(write(cover), rng)

    return image


def word(sheet, rng):
    words = ["hello", "Bread", "MNIST", "yes", "photo", "Zebra", "sum", "Call me", "list", "table"]
    image = np.full((300, 600), PAPER, np.uint8)
    font = [cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_SCRIPT_SIMPLEX, cv2.FONT_HERSHEY_COMPLEX][rng.integers(3)]
    at = int(rng.uniform(20, 120)), int(rng.uniform(120, 220))
    cv2.putText(image, words[rng.integers(len(words))], at, font, rng.uniform(2, 4), INK, 6, cv2.LINE_AA)
    return expose(image.astype(np.float32), rng)


def face(sheet, rng):
    """A part of the photograph that comes with Matplotlib, a portrait."""
    portrait = cv2.imread(str(Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")))
    height, width = portrait.shape[:2]
    tall, wide = (int(rng.uniform(0.5, 1) * side) for side in (height, width))
    top, left = int(rng.uniform(0, 0.5) * (height - tall)), int(rng.uniform(0, 1) * (width - wide))
    return expose(portrait[top : top + tall, left : left + wide].astype(np.float32), rng)


NO_DIGIT = {
    "empty, evenly lit": empty(lambda paper, rng: paper),
    "empty, light falling off": empty(lambda paper, rng: paper * (0.7 - 0.3 * across(paper.shape, rng))),
    "empty, vignette": empty(lambda paper, rng: paper * vignette(paper.shape, 0.5)),
    "empty, a shadow's edge": empty(lambda paper, rng: np.where(across(paper.shape, rng) > 0, paper * 0.6, paper)),
    "empty, noisy": empty(lambda paper, rng: paper + 15 * rng.standard_normal(paper.shape)),
    "empty, ruled": empty(lambda paper, rng: write(ruled(paper.shape, rng), paper, 150)),
    "empty, squared": empty(lambda paper, rng: write(squares(paper.shape, rng, 2), paper, 140)),
    "two digits": several(2),
    "three digits": several(3),
    "a word": word,
    "a face": face,
}
KINDS = {**CLEAN, **DEGRADED, **NO_DIGIT}


def photograph(kind, number):
    """(an image of the kind, uint8 gray, BGR or BGRA; the digit that it shows, if any)."""
    image = KINDS[kind](lay_out(number), np.random.default_rng([zlib.crc32(kind.encode()), number]))
    return image, None if kind in NO_DIGIT else strokes(number)[1]
