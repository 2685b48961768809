"""Where the ink of a digit is in an image: a scan, a photograph or a screenshot.

The plain reading, a threshold, is kept wherever nothing speaks against it. Otherwise the ground is evened out, and what
reaches the edge of the image is taken for something else than the digit: a desk, a shadow, a frame, squared paper.

Measured in results/predict.txt, right of 50 by the plain reading and by this one: light falling off to .3, 7 and 46; a
shadow of x .6, 2 and 46; a dark desk, 8 and 46; strong squared paper, 2 and 46. On a clean sheet both have 46.
"""

from typing import NamedTuple

import cv2
import numpy as np

CONTRAST = 20  # of 255, between digit and ground
MIN_BLOB = 0.02  # of the largest piece of ink: smaller pieces are not part of the digit
EDGE = 0.08  # of the image's edge that is ink at most, if the plain reading is to stand
FULL = 0.35  # of the image that is ink at most
THICK = 0.5  # of a digit's longer side: no stroke is wider
BOX = 0.15  # of the image that a frame or a sheet has at least
SMALL = 0.03  # of the image's longer side that a digit has at least, where the ground is evened out
FAINT = 0.1  # of the ground, likewise, that a pen darkens it by at least
TOUCHES, SEVERAL = "touches the border", "more than one digit?"
WORK = 600  # pixels of the longer side that the ground is evened out at
KERNEL = 0.3  # of the longer side: the ground is what is wider than that


class Ink(NamedTuple):
    """The share of pen in each pixel, float32 [height, width]; which belong to the digit; notes on how it was found."""

    share: np.ndarray
    mask: np.ndarray
    notes: tuple = ()


def edge_of(image):
    return np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])


def pieces_of(mask):
    """(the number of each pixel's piece, areas, boxes [n, 4]) of a mask; piece 0, the ground, has area 0."""
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    return pieces, areas, stats[:, :4]


def without_dust(mask):
    pieces, areas, _ = pieces_of(mask)
    return (areas >= MIN_BLOB * areas.max())[pieces] & mask


def thickness(mask):
    """The width of the widest stroke in pixels. What reaches the edge of the image counts as if it went on there."""
    return 2 * cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5).max() - 1


def longer_side(mask):
    return max(cv2.boundingRect(mask.astype(np.uint8))[2:])


def like_strokes(mask):
    """Whether what is in mask may be a digit: no blob, and neither squared paper, which has many holes, nor squares."""
    thick = thickness(mask)
    outlines, nested = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    large = [cv2.contourArea(outline) > thick**2 / 4 for outline in outlines]
    holes = [big for big, (*_, parent) in zip(large, nested[0]) if parent >= 0]
    return thick < THICK * longer_side(mask) and sum(holes) <= 3 and len(large) - len(holes) <= 8


def side_by_side(mask):
    """Whether tall pieces stand beside each other, as the digits of a number or the letters of a word do."""
    _, areas, boxes = pieces_of(mask)
    tall = boxes[(areas > 0) & (boxes[:, 3] > cv2.boundingRect(mask.astype(np.uint8))[3] / 2)]
    left = np.sort(tall[:, 0])
    return len(tall) > 1 and bool((left[1:] >= (tall[:, 0] + tall[:, 2])[tall[:, 0].argsort()][:-1]).any())


def plainly(gray):
    """The Ink of a gray uint8 image by Otsu's threshold, or None; the ground is what most of the edge is."""
    threshold, _ = cv2.threshold(gray, 0, 255, cv2.THRESH_OTSU)
    if np.median(edge_of(gray)) > threshold:
        gray, threshold = 255 - gray, 254 - threshold
    mask = gray > threshold
    dark, light = (np.median(gray[side]) if side.any() else 0 for side in (~mask, mask))
    if light - dark < CONTRAST:
        return None
    return Ink(np.clip((gray.astype(np.float32) - dark) / (light - dark), 0, 1), without_dust(mask))


def find_box(gray):
    """The mask of the inside of the largest frame or sheet that lies wholly within the image, or None."""
    threshold, _ = cv2.threshold(gray, 0, 255, cv2.THRESH_OTSU)
    best, largest = None, BOX * gray.size
    for side in (gray <= threshold, gray > threshold):
        for contour in cv2.findContours(side.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]:
            area = cv2.contourArea(contour)
            if area > largest:
                left, top, width, height = cv2.boundingRect(contour)
                within = left and top and left + width < gray.shape[1] and top + height < gray.shape[0]
                if within and area > 0.9 * np.prod(cv2.minAreaRect(contour)[1]):
                    best, largest = contour, area
    if best is None:
        return None
    inside = cv2.drawContours(np.zeros(gray.shape, np.uint8), [best], 0, 1, cv2.FILLED)
    return cv2.erode(inside, np.ones((3, 3)), iterations=3 + max(gray.shape) // 100) > 0


def depths(gray):
    """How far each pixel stands out of its ground, float32: the dark of a gray image, as a share, then the light.

    The ground is a closing: it follows light that falls off, and a shadow's edge, but no stroke. The image's border is
    repeated outwards, as the closing would lift the ground there. Blurring keeps an edge monotone: it leaves no line.
    """
    size = int(KERNEL * max(gray.shape)) | 1
    smooth = cv2.GaussianBlur(gray, (0, 0), 1)
    wide = cv2.copyMakeBorder(smooth, size, size, size, size, cv2.BORDER_REPLICATE)
    for operation in (cv2.MORPH_CLOSE, cv2.MORPH_OPEN):
        ground = cv2.morphologyEx(wide, operation, np.ones((size, size), np.uint8))[size:-size, size:-size]
        if operation == cv2.MORPH_CLOSE:
            yield 1 - smooth / np.maximum(ground, 32).astype(np.float32)
        else:
            yield (smooth - ground) / np.float32(255)


def readings(depth, inside):
    """Every mask that may be the digit, where its ground has depth 0 and it lies inside."""
    low, middle = np.quantile(depth[inside], (0.05, 0.25))  # of the ground, also where lines cover half of it
    noise = middle - low
    outline = inside & ~(cv2.erode(np.pad(inside, 1).astype(np.uint8), np.ones((3, 3)))[1:-1, 1:-1] > 0)
    left = inside.copy()
    for _ in range(3):
        level = depth[left].max(initial=0) - middle
        if level < max(FAINT, 8 * noise):
            return
        for share in (0.7, 0.5):
            mask = left & (depth > middle + share * level)
            for line in (7, 5, 3, 1):  # pixels: thinner lines vanish, such as those of squared paper
                disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (line, line))
                pieces, areas, boxes = pieces_of(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disc))
                outer = np.unique(pieces[outline])
                areas[outer] = 0
                if areas.any():
                    x, y, width, height = boxes.T
                    main = areas.argmax()
                    near = max(width[main], height[main]) / 2
                    beside = (x < x[main] + width[main] + near) & (x + width > x[main] - near)
                    beside &= (y < y[main] + height[main] + near) & (y + height > y[main] - near)
                    found = ((areas >= MIN_BLOB * areas[main]) & beside)[pieces]
                    if max(width[main], height[main]) >= max(8, SMALL * max(depth.shape)) and like_strokes(found):
                        yield found
        outer = np.isin(pieces, outer[outer > 0]).astype(np.uint8)
        if not outer.any():
            return
        left &= cv2.dilate(outer, np.ones((9, 9))) == 0


def evened(gray, inside):
    """The Ink of a gray uint8 image on uneven ground, or None: of all readings the one with the longest strokes."""
    best, most = None, 0
    for depth in depths(gray):
        for mask in readings(depth, inside):
            length = depth[mask].sum() / thickness(mask)
            if length > most:
                best, most = Ink(np.clip(depth / np.median(depth[mask]), 0, 1), mask), length
    return best


def doubtful(ink):
    return ink is None or edge_of(ink.mask).mean() > EDGE or ink.mask.mean() > FULL or not like_strokes(ink.mask)


def shrink(image, longest):
    scale = longest / max(image.shape)
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image


def contrast_of(gray):
    """Between the halves that Otsu's threshold makes of a gray image."""
    threshold, _ = cv2.threshold(gray, 0, 255, cv2.THRESH_OTSU)
    return np.ptp([np.median(gray[side]) if side.any() else 0 for side in (gray <= threshold, gray > threshold)])


def find_gray(gray):
    """As find_ink, of a gray image."""
    plain, box = plainly(gray), find_box(gray)
    if box is None and not doubtful(plain):
        return plain
    if box is not None:
        rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
        part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        inner = np.where(box[part], gray[part], np.median(gray[box]).astype(np.uint8))
        found = evened(shrink(inner, WORK), shrink(box[part].astype(np.uint8), WORK) > 0)
        if found:
            return found._replace(notes=("found in a frame",))
    small = shrink(gray, WORK)
    found = evened(small, np.ones(small.shape, bool))
    if found:
        return found._replace(notes=("found on uneven ground",))
    return plain if plain and like_strokes(plain.mask) else None


def find_ink(image):
    """The Ink of a uint8 image, gray [height, width] or BGR [height, width, 3]; None if no digit stands out.

    Where there is none in gray, as in green on red, it is looked for in the channel with the most contrast.
    """
    gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    found = find_gray(gray)
    if found is None and image.ndim == 3:
        name, channel = max(zip(("blue", "green", "red"), cv2.split(image)), key=lambda each: contrast_of(each[1]))
        found = find_gray(channel)
        found = found and found._replace(notes=(*found.notes, f"found in the {name} channel"))
    if found and edge_of(found.mask).any():
        found = found._replace(notes=(*found.notes, TOUCHES))
    if found and side_by_side(found.mask):
        found = found._replace(notes=(*found.notes, SEVERAL))
    return found
