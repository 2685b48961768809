"""Your own digit becomes an MNIST digit, the network predicts as it is evaluated, and bad input is one line."""

import importlib
import os
from pathlib import Path
import re
import subprocess
import sys
from types import SimpleNamespace

from common import predict
from common.checkpoint import save
from common.cli import UserError
from common.ink import by_threshold
from common.input import resize_tensorflow
from common.predict import Predictor, answers, find_images, load_network, printable, read_image
from common.results import write_record
from common.step import dropout_seeds
from common.tensorflow import tf
from conftest import ROOT
import cv2
import numpy as np
import photographs
from PIL import Image
import pytest


def as_mnist(image, path="image"):
    return predict.as_mnist(image, path)[0]


def large(digit):
    """An MNIST digit dark on light, 280 pixels high."""
    return 255 - cv2.resize(digit, (280, 280), interpolation=cv2.INTER_CUBIC)


def transparent(digit, ink):
    """A digit in a gray ink on a transparent background."""
    return np.dstack([np.full((280, 280, 3), ink, np.uint8), 255 - large(digit)])


def with_dust(digit):
    image = large(digit)
    image[5:8, 5:8] = image[270:273, 20:23] = 0
    return image


def in_a_corner(digit):
    image = np.full((700, 900), 255, np.uint8)
    image[400:680, 600:880] = large(digit)
    return image


DISGUISES = {
    "MNIST's own": lambda digit: digit,
    "dark on light": lambda digit: 255 - digit,
    "large": large,
    "small": lambda digit: cv2.resize(digit, (24, 24), interpolation=cv2.INTER_AREA),
    "in a corner": in_a_corner,
    "cropped": lambda digit: large(digit)[10:270, 10:270],
    "pale": lambda digit: 200 - (255 - large(digit)) // 4,
    "blue on yellow": lambda digit: cv2.merge([255 - large(digit), large(digit), large(digit)]),
    "16 bits": lambda digit: large(digit).astype(np.uint16) * 257,
    "black on nothing": lambda digit: transparent(digit, 0),
    "white on nothing": lambda digit: transparent(digit, 255),
    "dark on nothing, 16 bits": lambda digit: transparent(digit, 10).astype(np.uint16) * 257,
    "with an opaque alpha channel": lambda digit: cv2.cvtColor(large(digit), cv2.COLOR_GRAY2BGRA),
    "with dust": with_dust,
}


def likeness(one, other):
    """The correlation of two images."""
    return np.corrcoef(one.ravel(), other.ravel())[0, 1]


def most_like(image, others):
    """The index of the image that is most like it, moved by up to a pixel."""
    moved = [np.roll(image, (down, right), (0, 1)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    table = np.corrcoef([each.ravel() for each in (*moved, *others)])[:9, 9:]
    return table.max(axis=0).argmax()


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_transformed_digit_is_the_mnist_digit(disguise, tmp_path, mnist):
    path = tmp_path / "数字.png"
    for number, digit in enumerate(mnist.train_images[:10]):
        path.write_bytes(cv2.imencode(".png", DISGUISES[disguise](digit))[1])
        seen = as_mnist(read_image(path), path)
        assert seen.dtype == np.uint8 and seen.shape == (28, 28) and seen.max() == 255
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
        for axis in (0, 1):  # MNIST's centres of mass lie at 14, to half a pixel
            assert abs(np.arange(28) @ seen.sum(1 - axis) / seen.sum() - 14) < 0.6
        found = most_like(seen, mnist.train_images[:1000])
        if disguise == "small":  # too small for its details
            assert mnist.train_labels[found] == mnist.train_labels[number]
        else:
            assert found == number


@pytest.mark.parametrize("kind", [".jpg", ".bmp", ".webp", ".tiff", ".pgm"])
def test_other_formats_are_read(kind, tmp_path, mnist):
    path = tmp_path / f"digit{kind}"
    path.write_bytes(cv2.imencode(kind, large(mnist.train_images[0]))[1])
    assert likeness(as_mnist(read_image(path), path), as_mnist(large(mnist.train_images[0]), path)) > 0.98


def test_a_thin_pen_writes_what_a_thick_one_does():
    thin, thick = (np.full((1000, 1000), 255, np.uint8) for _ in range(2))
    for image, width in (thin, 1), (thick, 80):
        cv2.polylines(image, [np.array([[250, 150], [750, 150], [450, 850]])], False, 0, width)
    assert likeness(as_mnist(thin, "thin"), as_mnist(thick, "thick")) > 0.9


@pytest.mark.parametrize("kind", photographs.DEGRADED)
def test_a_photograph_of_a_digit_is_most_like_that_digit(kind, mnist, likeness_to_mnist):
    for number in (3, 4, 5):  # of the 50 in results/predict.txt
        image, label = photographs.photograph(kind, number)
        seen = likeness_to_mnist.normalise(as_mnist(readable(image))[np.newaxis])
        assert mnist.train_labels[(seen @ likeness_to_mnist.known).argmax()] == label


def test_lines_as_dark_as_the_pen_are_not_the_digit(mnist, likeness_to_mnist):
    for number in (3, 4, 5):
        image = photographs.squared((60, 40, 40))(photographs.lay_out(number), np.random.default_rng(number))
        seen = likeness_to_mnist.normalise(as_mnist(image)[np.newaxis])
        assert mnist.train_labels[(seen @ likeness_to_mnist.known).argmax()] == photographs.strokes(number)[1]


def readable(image):
    """As read_image returns it."""
    return predict.on_background(image) if image.shape[2:] == (4,) else image


@pytest.mark.parametrize("kind", photographs.CLEAN)
def test_a_clean_image_is_read_by_the_threshold(kind):
    for number in (3, 4, 5):
        image = readable(photographs.photograph(kind, number)[0])
        digit, notes = predict.as_mnist(image, kind)
        gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        assert notes == () and (digit == predict.as_mnist(gray, kind, by_threshold)[0]).all()


def test_mnist_is_read_by_the_threshold(mnist):
    for digit in mnist.test_images[1000:1100]:
        seen, notes = predict.as_mnist(digit, "digit")
        assert notes in ((), ("touches the border",))  # as some digits of MNIST do
        assert (seen == predict.as_mnist(digit, "digit", by_threshold)[0]).all()


def test_strokes_are_found_under_glare():
    """As on a clean sheet, in images 30 to 39; without the correction the mean likeness is 0.65."""
    likenesses = []
    for number in range(30, 40):
        clean = as_mnist(photographs.photograph("a clean sheet", number)[0])
        seen, notes = predict.as_mnist(photographs.photograph("whiteboard with glare", number)[0], "board")
        likenesses.append(likeness(seen, clean))
        assert "found under glare" in notes
    assert np.mean(likenesses) > 0.9


@pytest.mark.parametrize("kind", [kind for kind in photographs.NO_DIGIT if kind.startswith("empty")])
def test_an_empty_sheet_is_refused_or_doubtful(kind, likeness_to_mnist):
    for number in range(3):
        try:
            digit, notes = predict.as_mnist(photographs.photograph(kind, number)[0], kind)
        except UserError:
            continue
        assert notes or likeness_to_mnist(digit[np.newaxis]) < predict.MIN_LIKENESS


@pytest.fixture(scope="session")
def likeness_to_mnist(mnist):
    return predict.Likeness(mnist.train_images)


@pytest.mark.parametrize("kind", ["two digits", "three digits", "a word"])
def test_several_letters_are_doubtful(kind, likeness_to_mnist):
    certain = np.eye(10, dtype=np.float32)[:1]
    for number in range(3):
        digit, notes = predict.as_mnist(photographs.photograph(kind, number)[0], kind)
        network = lambda digits: SimpleNamespace(numpy=lambda: certain)  # noqa: E731
        ((_, _, doubt),) = answers(network, likeness_to_mnist, digit[np.newaxis], [notes])
        assert doubt


def test_a_probability_below_one_half_is_doubtful(mnist, likeness_to_mnist):
    rows = np.array([[0.52, 0.48, *[0] * 8], [0.48, 0.26, 0.26, *[0] * 7]], np.float32)
    network = lambda digits: SimpleNamespace(numpy=lambda: rows)  # noqa: E731
    given = list(answers(network, likeness_to_mnist, mnist.train_images[:2], [(), ()]))
    assert [doubt for _, _, doubt in given] == [False, True]
    assert [notes for _, notes, _ in given] == [(), ()]


def test_a_digit_that_touches_the_border_is_noted(mnist):
    digit = large(mnist.train_images[0])
    rows, columns = (np.flatnonzero((digit < 128).any(axis)) for axis in (1, 0))
    cut = digit[rows[0] : rows[-1] + 1, columns[0] - 20 : columns[-1] + 20]
    assert predict.as_mnist(cut, "cut")[1] == ("touches the border",)


def write_bad_images(folder, digit):
    """Write files without a digit; returns {name: words of the error}."""
    png, jpeg = (cv2.imencode(kind, large(digit))[1].tobytes() for kind in (".png", ".jpg"))
    said = {
        "text.png": (b"hello\n", "not an image"),
        "nothing.png": (b"", "not an image"),
        "photo.heic": (b"\0\0\0\x18ftypheic", "not an image"),
        "cut.png": (png[: len(png) // 2], "damaged or cut short"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "damaged or cut short"),
    }
    images = {"white": np.full((50, 50), 255), "clear": np.zeros((50, 50, 4)), "dot": np.zeros((1, 1))}
    images["faint"] = 255 - large(digit) // 20
    for name, image in images.items():
        said[f"{name}.png"] = cv2.imencode(".png", image.astype(np.uint8))[1].tobytes(), "no digit stands out"
    for name, (content, _) in said.items():
        (folder / name).write_bytes(content)
    (folder / "folder").mkdir()
    (folder / "loop.png").symlink_to(folder / "loop.png")
    words = {name: words for name, (_, words) in said.items()}
    return words | {"missing.png": "No such file", "folder": "no image in this folder", "loop.png": "symbolic links"}


def test_an_image_without_a_digit_is_named(tmp_path, mnist, capfd):
    for name, words in write_bad_images(tmp_path, mnist.train_images[0]).items():
        complaints = []
        assert list(predict.prepare(find_images([tmp_path / name], complaints.append), complaints.append)) == []
        (complaint,) = map(str, complaints)
        assert re.match(f"{tmp_path / name}: .*{words}.*;", complaint)
    assert capfd.readouterr().err == ""


def test_a_folder_means_its_images(tmp_path, mnist, capsys):
    for name in ("b.png", "a.png", "c.jpg"):
        cv2.imwrite(str(tmp_path / name), large(mnist.train_images[0]))
    (tmp_path / "a.png").rename(tmp_path / "a")  # recognised by its content
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").write_text("no image")
    (tmp_path / "photo.heic").write_text("recognised by its name")
    (tmp_path / "link.png").symlink_to("link.png")  # to itself; reading it says so
    (tmp_path / "inside").mkdir()
    single, complaints = tmp_path / "c.jpg", []
    found = find_images([single, tmp_path], complaints.append)
    inside = [tmp_path / name for name in ("a", "b.png", "c.jpg", "link.png", "photo.heic")]
    assert found == [single, *inside] and not complaints
    assert capsys.readouterr().err == f"{tmp_path}: skipped, not images: notes.txt\n"


def test_a_name_that_is_not_utf_8_is_printable(tmp_path, mnist):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n$.png"))
    path.write_bytes(cv2.imencode(".png", large(mnist.train_images[0]))[1])
    assert find_images([tmp_path], None) == [path] and read_image(path).shape == (280, 280)
    assert printable(path) == rf"{tmp_path}/\udcff\n$.png"


@pytest.mark.parametrize("kind", [".png", ".webp", ".jpg"])
def test_an_image_is_turned_upright(kind, tmp_path, mnist):
    path = tmp_path / f"digit{kind}"
    upright = large(mnist.train_images[0])
    modes = {".jpg": "L"}
    lying = Image.fromarray(np.rot90(upright).copy()).convert(modes.get(kind, "RGBA"))
    exif = Image.Exif()
    exif[0x112] = 6  # rotate clockwise
    lying.save(path, exif=exif)
    assert likeness(as_mnist(read_image(path)), as_mnist(upright)) > 0.98


@pytest.mark.parametrize("white", [1, 255, 65535, 1e6])
def test_floats_are_read(white, tmp_path, mnist):
    path = tmp_path / "digit.tiff"
    image = large(mnist.train_images[0])
    floats = image / np.float32(255) * white
    floats[0, 0] = np.nan
    Image.fromarray(floats).save(path)
    assert likeness(as_mnist(read_image(path)), as_mnist(image)) > 0.98


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_a_large_image_is_shrunk(kind, tmp_path, mnist):
    path = tmp_path / f"large.{kind}"
    digit = large(mnist.train_images[0])
    Image.fromarray(digit).resize((4000, 4000)).save(path)
    image = read_image(path)
    assert max(image.shape) == predict.LONGEST
    assert likeness(as_mnist(image), as_mnist(digit)) > 0.98


def test_an_image_too_large_to_read_is_named(tmp_path, monkeypatch):
    path = tmp_path / "huge.png"
    Image.new("L", (300, 300)).save(path)
    for pixels, most in (predict.MAX_PIXELS, 10_000), (80_000, None):  # Pillow raises at twice its own limit
        monkeypatch.setattr(predict, "MAX_PIXELS", pixels)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with pytest.raises(UserError, match=r"huge.png: larger than \d+ megapixels; shrink it"):
            read_image(path)


@pytest.fixture
def small(monkeypatch):
    """make(number): a network of an experiment with 16 units where it has 4,096."""

    def make(number):
        module = importlib.import_module(f"alexnet{number}")
        monkeypatch.setattr(module, "n_fc2", 16)
        monkeypatch.setattr(module, "n_fc3", 16)
        return module.AlexNet()

    return make


@pytest.fixture
def keep(tmp_path):
    """keep(network, experiment, **facts): the files of a complete run; returns the path of its record."""

    def write(network, experiment, **facts):
        (tmp_path / "weights").mkdir(exist_ok=True)
        save(tmp_path / "weights" / "one.npz", network, {})
        write_record(tmp_path / "one.json", {"experiment": experiment, **facts})
        return tmp_path / "one.json"

    return write


@pytest.mark.parametrize("number, masks", [(2, 3), (5, 3), (6, 1)])
def test_a_prediction_is_the_network_s_mean_over_masks(number, masks, small, mnist, monkeypatch):
    """For 6 on the batch and under the mask that its moments were computed with."""
    monkeypatch.setattr(predict, "DROPOUT_SAMPLES", masks)
    network, digits = small(number), mnist.test_images[:8]
    pixels = resize_tensorflow(digits)
    outputs = [network(pixels, dropout_seeds(0, 0, mask), False)["output"] for mask in range(masks)]
    expected = np.mean([tf.nn.softmax(output) for output in outputs], axis=0)
    predictor = Predictor(network, digits)
    prediction = predictor(digits).numpy()
    np.testing.assert_allclose(prediction, expected, atol=1e-5)
    np.testing.assert_allclose(predictor(digits[:1]).numpy(), prediction[:1], atol=1e-5)  # alone


def test_any_file_of_a_run_leads_to_its_weights(small, keep):
    network = small(6)
    network.running_means["fc1"].assign(np.arange(16.0))
    record = keep(network, "alexnet6")
    for name in ("one.json", "one.csv", "one", "weights/one", "weights/one.", "weights/one.npz"):
        found = load_network(record.parent / name)
        assert all((a.numpy() == b.numpy()).all() for a, b in zip(found.variables, network.variables))


def cut(record):
    path = record.parent / "weights" / "one.npz"
    path.write_bytes(path.read_bytes()[:1000])


def flip(record):
    path = record.parent / "weights" / "one.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def in_tensorflows_format(record):
    (record.parent / "weights" / "one.npz").rename(record.parent / "weights" / "one.index")


DAMAGE = {
    "a bit flipped": (flip, "damaged"),
    "cut": (cut, "damaged"),
    "removed": (lambda record: (record.parent / "weights" / "one.npz").unlink(), "no such file .git holds none"),
    "of an earlier commit": (in_tensorflows_format, "only weights in TensorFlow's format, which commit d22d2a0 reads"),
    "turned NaN": (lambda record: write_record(record, {"nan_weights": {"epoch": 1}}), "turned NaN"),
    "no record": (lambda record: record.unlink(), "no such file; RUN is any file"),
    "an unknown experiment": (lambda record: write_record(record, {"experiment": "alexnet99"}), "'alexnet99'"),
    "another program": (lambda record: write_record(record, {"experiment": "plot_results"}), "'plot_results'"),
    **{
        f"of experiment {other}": (
            lambda record, other=other: write_record(record, {"experiment": other}),
            "the variables of another network",
        )
        for other in ("alexnet2", "alexnet5")
    },
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_weights_that_do_not_fit_are_named(kind, small, keep):
    for other in (2, 5):
        small(other)
    record = keep(small(6), "alexnet6")
    damage, words = DAMAGE[kind]
    damage(record)
    with pytest.raises(UserError, match=f"^{record.parent}.*one.*{words}"):
        load_network(record)


def test_digits_probabilities_and_the_picture(small, keep, mnist, monkeypatch, tmp_path, capsys):
    record = keep(small(6), "alexnet6")
    monkeypatch.setattr(predict, "open_session", lambda *_: ("/CPU:0", {}))
    for name in ("BATCH_SIZE", "DROPOUT_SAMPLES", "BATCH_NORM_IMAGES"):
        monkeypatch.setattr(predict, name, 2)
    folder = tmp_path / "digits"
    folder.mkdir()
    for number, digit in enumerate(mnist.train_images[:3]):
        cv2.imwrite(str(folder / f"{number}.png"), large(digit))
    command = ["predict.py", str(record), str(folder), "--picture", str(tmp_path / "seen.png")]
    monkeypatch.setattr(sys, "argv", command)
    predict.main()
    heading, *lines, last = capsys.readouterr().out.splitlines()
    assert heading.split() == ["digit", *"0123456789", "%", "image"] and last.startswith(command[-1])
    for number, line in enumerate(lines):
        digit, *shares, name = line.split()
        shares = [int(share) for share in shares]
        assert name == str(folder / f"{number}.png")
        digit = digit.rstrip("?")
        assert sum(shares) == pytest.approx(100, abs=5) and shares[int(digit)] == max(shares)
    picture = cv2.imread(command[-1], cv2.IMREAD_GRAYSCALE)
    assert 0.3 < (picture == 0).mean() < 0.9 and (picture[len(picture) // 2 :] > 250).mean() > 0.05
    monkeypatch.setattr(sys, "argv", [*command[:-1], str(folder / "1.png")])
    with pytest.raises(UserError, match="--picture .*1.png: this is one of your images"):
        predict.main()
    monkeypatch.setattr(sys, "argv", command)
    for picture, words in ("nowhere/seen.png", "no such folder"), ("digits", "cannot be written"):
        monkeypatch.setattr(sys, "argv", [*command[:-1], str(tmp_path / picture)])
        with pytest.raises(UserError, match=f"--picture .*{picture}: {words}"):
            predict.main()
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(predict, "MAX_PICTURES", 2)
    with pytest.raises(UserError, match="--picture: there are 3 images, more than 2"):
        predict.main()


def test_a_bad_image_does_not_stop_the_others(small, keep, mnist, monkeypatch, tmp_path, capsys):
    record = keep(small(6), "alexnet6")
    monkeypatch.setattr(predict, "open_session", lambda *_: ("/CPU:0", {}))
    for name in ("BATCH_SIZE", "DROPOUT_SAMPLES", "BATCH_NORM_IMAGES"):
        monkeypatch.setattr(predict, name, 2)
    folder = tmp_path / "$digits"
    folder.mkdir()
    for number in range(5):
        cv2.imwrite(str(folder / f"$^{number}^$.png"), large(mnist.train_images[number]))
    (folder / "$^1^$.png").write_bytes(b"no image")
    (folder / "$^4^$.png").write_bytes(b"no image")
    networks = []
    monkeypatch.setattr(predict, "load_network", lambda path: networks.append(path) or load_network(path))
    command = ["predict.py", str(record), "missing.png", str(folder), "--picture", str(tmp_path / "$seen$.png")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stop:
        predict.main()
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and len(networks) == 1
    assert [Path(line.split()[-1]).name for line in out.splitlines()[1:4]] == ["$^0^$.png", "$^2^$.png", "$^3^$.png"]
    assert [Path(line.split(": ")[2]).name for line in err.splitlines()] == ["missing.png", "$^1^$.png", "$^4^$.png"]
    assert (tmp_path / "$seen$.png").exists()


def test_bad_input_is_one_line(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    command = [sys.executable, "-m", "common.predict", "results/alexnet1", str(tmp_path / "text.png")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"predict.py: error: {tmp_path / 'text.png'}: not an image")


def test_tqdm_disable_turns_the_bar_off(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(predict, "BATCH_SIZE", 1)
    for value, bar in {"1": False, "0": True, "": True}.items():
        monkeypatch.setenv("TQDM_DISABLE", value)
        assert not list(predict.prepare([Path("missing.png")] * 2, lambda message: None))
        assert ("images" in capsys.readouterr().err) == bar
