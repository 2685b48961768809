"""Where the ink of a digit is in an image: a scan, a photograph or a screenshot.

A plain threshold is kept if its result looks like a digit. Otherwise the background is subtracted, and what reaches the
edge of the image is not taken for the digit: a desk, a shadow, a frame, squared paper. Spots of glare go first.

Right answers of 50 by the threshold alone and by all of this (results/predict.txt): light falling off to 0.3, 3 and
46; a shadow of x 0.6, 2 and 47; a dark desk, 6 and 45; strong squared paper, 4 and 46; a whiteboard with glare, 27 and
46; a clean sheet, 45 and 45.
"""

from typing import NamedTuple

import cv2
import numpy as np

CONTRAST = 20  # of 255, between digit and background
MIN_BLOB = 0.02  # of the largest component: smaller ones are not part of the digit
EDGE = 0.08  # of the image's edge: most ink there if the threshold is to be trusted
FULL = 0.35  # of the image: most ink that a digit has
THICK = 0.5  # of a digit's longer side: no stroke is wider
BOX = 0.15  # of the image: least area of a frame or a sheet
SMALL = 0.03  # of the image's longer side: least size of a digit, where the background is subtracted
FAINT = 0.1  # of the background: least darkening by a pen, likewise
TOUCHES, SEVERAL = "touches the border", "more than one digit?"
WORK = 600  # pixels of the longer side at which the background is estimated
KERNEL = 0.3  # of the longer side: wider structures are background
GLARE = 0.3  # the least share of white light that is removed as glare


class Ink(NamedTuple):
    """The share of ink in each pixel, float32 [height, width]; the digit's pixels, bool; notes on how it was found."""

    share: np.ndarray
    mask: np.ndarray
    notes: tuple = ()


def edge_of(image):
    return np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])


def components_of(mask):
    """(label of each pixel, areas, boxes [n, 4]) of a mask's connected components; 0, the background, has area 0."""
    _, components, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    return components, areas, stats[:, :4]


def without_dust(mask):
    components, areas, _ = components_of(mask)
    return (areas >= MIN_BLOB * areas.max())[components] & mask


def thickness(mask):
    """The width of the widest stroke in pixels. What reaches the image's edge is treated as continuing there."""
    return 2 * cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5).max() - 1


def longer_side(mask):
    return max(cv2.boundingRect(mask.astype(np.uint8))[2:])


def like_strokes(mask):
    """Whether a mask may be a digit: neither a blob, nor squared paper, which has many holes, nor its squares."""
    thick = thickness(mask)
    outlines, nested = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    large = [cv2.contourArea(outline) > thick**2 / 4 for outline in outlines]
    holes = [big for big, (*_, parent) in zip(large, nested[0]) if parent >= 0]
    return thick < THICK * longer_side(mask) and sum(holes) <= 3 and len(large) - len(holes) <= 8


def side_by_side(mask):
    """Whether tall components stand side by side, as the digits of a number or the letters of a word do."""
    _, areas, boxes = components_of(mask)
    tall = boxes[(areas > 0) & (boxes[:, 3] > cv2.boundingRect(mask.astype(np.uint8))[3] / 2)]
    left = np.sort(tall[:, 0])
    return len(tall) > 1 and bool((left[1:] >= (tall[:, 0] + tall[:, 2])[tall[:, 0].argsort()][:-1]).any())


def by_threshold(gray):
    """The Ink of a gray uint8 image by Otsu's threshold, or None; most of the image's edge is background."""
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


def morph(image, operation, share):
    """A morphological operation with a square of a share of the longer side; the border is replicated outwards."""
    size = int(share * max(image.shape)) | 1
    wide = cv2.copyMakeBorder(image, size, size, size, size, cv2.BORDER_REPLICATE)
    return cv2.morphologyEx(wide, operation, np.ones((size, size), np.uint8))[size:-size, size:-size]


def depths(gray):
    """How far each pixel stands out from its background, float32: dark strokes of a gray image, then light ones.

    The background is a morphological closing (opening): it follows falling light and a shadow's edge, but no stroke.
    The border is replicated outwards, or the closing would lift the background there. Blurring keeps edges monotone:
    subtracting them leaves no line.
    """
    smooth = cv2.GaussianBlur(gray, (0, 0), 1)
    for operation in (cv2.MORPH_CLOSE, cv2.MORPH_OPEN):
        background = morph(smooth, operation, KERNEL)
        if operation == cv2.MORPH_CLOSE:
            yield 1 - smooth / np.maximum(background, 32).astype(np.float32)
        else:
            yield (smooth - background) / np.float32(255)


def candidate_masks(depth, inside):
    """Yield every mask within inside that may be the digit; depth is 0 where there is background."""
    low, middle = np.quantile(depth[inside], (0.05, 0.25))  # of the background, even where lines cover half of it
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
                components, areas, boxes = components_of(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disc))
                outer = np.unique(components[outline])
                areas[outer] = 0
                if areas.any():
                    x, y, width, height = boxes.T
                    main = areas.argmax()
                    near = max(width[main], height[main]) / 2
                    beside = (x < x[main] + width[main] + near) & (x + width > x[main] - near)
                    beside &= (y < y[main] + height[main] + near) & (y + height > y[main] - near)
                    found = ((areas >= MIN_BLOB * areas[main]) & beside)[components]
                    if max(width[main], height[main]) >= max(8, SMALL * max(depth.shape)) and like_strokes(found):
                        yield found
        outer = np.isin(components, outer[outer > 0]).astype(np.uint8)
        if not outer.any():
            return
        left &= cv2.dilate(outer, np.ones((9, 9))) == 0


def by_background(gray, inside):
    """The Ink of a gray uint8 image on an uneven background, or None: the candidate with the longest strokes."""
    best, most = None, 0
    for depth in depths(gray):
        for mask in candidate_masks(depth, inside):
            length = depth[mask].sum() / thickness(mask)
            if length > most:
                best, most = Ink(np.clip(depth / np.median(depth[mask]), 0, 1), mask), length
    return best


def without_glare(gray):
    """A gray uint8 image without spots of glare, or None if it has none.

    Glare adds white light to board and strokes alike: share * 255 + (1 - share) * gray. The share is how far the board,
    inpainted under the strokes, rises above its opening. Spots are smooth, and neither tiny nor a quarter of the image.
    """
    small = cv2.GaussianBlur(shrink(gray, WORK // 2), (0, 0), 2)
    strokes = cv2.subtract(morph(small, cv2.MORPH_CLOSE, 0.1), small) > 6
    board = cv2.inpaint(small, cv2.dilate(strokes.astype(np.uint8), np.ones((5, 5))), 5, cv2.INPAINT_TELEA)
    base = morph(board, cv2.MORPH_OPEN, KERNEL).astype(np.float32)
    board = cv2.GaussianBlur(board.astype(np.float32), (0, 0), 3)
    share = np.clip((board - base) / np.maximum(255 - base, 1), 0, 0.9)
    steep = cv2.magnitude(cv2.Sobel(board, -1, 1, 0), cv2.Sobel(board, -1, 0, 1)) / 8 > 8  # levels a pixel: an edge
    spots = (share > GLARE) & (board - base > 15) & (board > np.quantile(board, 0.9))
    components, areas, _ = components_of(spots)
    edged = np.unique(components[cv2.dilate(steep.astype(np.uint8), np.ones((7, 7))) > 0])
    areas[edged] = 0
    if areas.max() < 0.01 * share.size or np.mean(share > GLARE / 3) > 0.25:
        return None
    share = cv2.resize(share, gray.shape[::-1])
    return np.clip((gray - 255 * share) / (1 - share), 0, 255).astype(np.uint8)


def doubtful(ink):
    return ink is None or edge_of(ink.mask).mean() > EDGE or ink.mask.mean() > FULL or not like_strokes(ink.mask)


def shrink(image, longest):
    scale = longest / max(image.shape)
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image


def contrast_of(gray):
    """The contrast between the two sides of Otsu's threshold in a gray image."""
    threshold, _ = cv2.threshold(gray, 0, 255, cv2.THRESH_OTSU)
    return np.ptp([np.median(gray[side]) if side.any() else 0 for side in (gray <= threshold, gray > threshold)])


def find_gray(gray):
    """find_ink for a gray image, again without glare if there is some."""
    found = find_even(gray)
    cleared = without_glare(gray) if found else None
    again = None if cleared is None else find_even(cleared)
    return again._replace(notes=(*again.notes, "found under glare")) if again else found


def find_even(gray):
    """find_ink for a gray image without spots of glare."""
    plain, box = by_threshold(gray), find_box(gray)
    if box is None and not doubtful(plain):
        return plain
    if box is not None:
        rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
        part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        inner = np.where(box[part], gray[part], np.median(gray[box]).astype(np.uint8))
        found = by_background(shrink(inner, WORK), shrink(box[part].astype(np.uint8), WORK) > 0)
        if found:
            return found._replace(notes=("found in a frame",))
    small = shrink(gray, WORK)
    found = by_background(small, np.ones(small.shape, bool))
    if found:
        return found._replace(notes=("found on an uneven background",))
    return plain if plain and like_strokes(plain.mask) else None


def find_ink(image):
    """The Ink of a uint8 image, gray [height, width] or BGR [height, width, 3]; None if no digit stands out.

    If it finds none in gray, as in green on red, it tries the channel with the most contrast.
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
