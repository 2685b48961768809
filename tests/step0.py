"""How strong the signal is at the initial values, and how long the plateau lasts that follows: one number at step 0.

python -m tests.step0             prints the table of results/step0.txt and draws results/step0.png
python -m tests.step0 --measure   measures results/step0.csv first, ten minutes on 2 cores

Per network and seed: the standard deviation over images of pool5 (mean of its units) and the norm of conv1's gradient
of the summed loss, for the first 64 test images with dropout on, in float32 on the CPU.
"""

import csv
import importlib
import math
from pathlib import Path
from typing import NamedTuple

from common import data
from common.cli import Parser
from common.results import Iteration, read_csv
import matplotlib

matplotlib.use("Agg")
from common.plots.pictures import STYLE, base_style  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import tabulate  # noqa: E402

from plot_results import save  # noqa: E402
from tests.evidence import first_below, independent, permutation_p, slope  # noqa: E402

RESULTS = Path(__file__).parent.parent / "results"
IMAGES, SEEDS = 64, range(5)
ROOT_TWO = math.sqrt(2)


class Network(NamedTuple):
    """A script whose initial weights are scaled by factors, {layer or "all": factor}, and its runs.

    runs      traces in results/, one per run
    expected  iterations of plateau predicted before such a run, (least, most)
    """

    label: str
    script: str
    factors: dict
    runs: tuple
    expected: tuple | None = None


def seeds(run, count):
    """The traces of a run with seeds 0 to count - 1."""
    return tuple(f"{run}-seed{seed}.csv" if seed else f"{run}.csv" for seed in range(count))


NETWORKS = (
    Network("5", "alexnet5", {}, ("trace/alexnet5-mixed.csv", "trace/alexnet5-seed1.csv")),
    Network("2", "alexnet2", {}, ("trace/alexnet2.csv", "trace/alexnet2-mixed.csv", "trace/alexnet2-seed1.csv")),
    Network(
        "5, conv4 and conv5 x 1.41",
        "alexnet5",
        {"conv4": ROOT_TWO, "conv5": ROOT_TWO},
        ("changed/trace/alexnet5-sqrt2.csv",),
        (3000, 3600),
    ),
    Network("2, stddev 0.012", "alexnet2", {"all": 1.2}, ("changed/trace/alexnet2-stddev0012.csv",), (950, 1200)),
    Network("2, stddev 0.014", "alexnet2", {"all": 1.4}, ("changed/trace/alexnet2-stddev0014.csv",), (320, 490)),
    Network("5, stddev 0.017", "alexnet5", {"all": 1.7}, seeds("changed/trace/alexnet5-stddev0017", 4), (200, 310)),
    Network(
        "5, 0.017, conv4 and conv5 x 1.41",
        "alexnet5",
        {"all": 1.7, "conv4": 1.7 * ROOT_TWO, "conv5": 1.7 * ROOT_TWO},
        seeds("changed/trace/alexnet5-stddev0017-sqrt2", 4),
        (115, 170),
    ),
    Network(
        "2, stddev 0.017",
        "alexnet2",
        {"all": 1.7},
        seeds("changed/trace/alexnet2-stddev0017", 4),
        (75, 150),
    ),
    Network("4", "alexnet4", {}, ("trace/alexnet4-mixed.csv", "short/trace/alexnet4-epochs1-seed1.csv")),
    Network("2, stddev 0.02", "alexnet2", {"all": 2}, ("changed/trace/alexnet2-stddev002.csv",)),
    Network("2, stddev 0.03", "alexnet2", {"all": 3}, ("changed/trace/alexnet2-stddev003.csv",)),
    Network("6", "alexnet6", {}, ("trace/alexnet6-mixed.csv",)),
)

# Stddev, and the networks without groups, with groups, and with groups and the signal restored.
COMPARED = (
    ("0.01", "2", "5", "5, conv4 and conv5 x 1.41"),
    ("0.017", "2, stddev 0.017", "5, stddev 0.017", "5, 0.017, conv4 and conv5 x 1.41"),
)


def scale(network, factors):
    """Multiply a network's weights by the factors of their layers, as if drawn with that larger stddev."""
    for variable in network.trainable_variables:
        layer, _, kind = variable.name.partition(":")[0].partition("/")
        if kind == "weights":
            factor = factors.get(layer.partition("_")[0], factors.get("all", 1))
            variable.assign(variable * factor)


def signal(script, factors, seed, images, labels):
    """(std over images at pool5, norm of conv1's gradient) of a script's network at its initial values.

    images are float32 [batch, 227, 227, 1], labels uint8 [batch].
    """
    from common.step import dropout_seeds  # here: to print the table takes no TensorFlow
    from common.tensorflow import tf

    module = importlib.import_module(script)
    tf.random.set_seed(seed)
    network = module.AlexNet()
    scale(network, factors)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            layers = network(images, dropout_seeds(seed, 0, 0), training=True)
            loss = module.naive_loss(layers["output"], tf.one_hot(labels, 10))
        gradient = tape.gradient(loss, network.weights["conv1"])
        return tf.reduce_mean(tf.math.reduce_std(layers["pool5"], axis=0)), tf.norm(gradient)

    return tuple(float(value) for value in step())


def plateaus(network):
    """The iteration that ends the plateau of each of the network's runs; None if a run is still on it."""
    return [first_below([row.train_loss for row in read_csv(RESULTS / run, Iteration)], 0.95) for run in network.runs]


def exponent(gradients, iterations):
    """(slope, its standard error) of log iterations against log gradient, by least squares."""
    return slope(np.log(gradients), np.log(iterations))


def draw(points):
    """The picture of a list of (Network, gradient, iterations of plateau), as a figure; expected ones are bars."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for network, gradient, ends in points:
        style = base_style(int(network.script[-1]))
        for end in filter(None, ends):
            axes.plot(gradient, end, linestyle="", **style)
        if network.expected:
            axes.plot([gradient] * 2, network.expected, color=style["color"], linewidth=5, alpha=0.3)
        known = [*filter(None, ends)] or network.expected
        left = network.script in ("alexnet2", "alexnet6")  # 2's points lie close to 5's, and 6 at the edge
        place = dict(xytext=(-6, -10), ha="right") if left else dict(xytext=(6, 4))
        axes.annotate(
            network.label, (gradient, max(known)), textcoords="offset points", color="#666666", fontsize=9, **place
        )
    axes.set(xscale="log", yscale="log", xlabel="norm of conv1's gradient at the initial values")
    axes.set(ylabel="iterations of plateau", title="The weaker the first gradient, the longer the plateau")
    axes.plot([], [], "o", color="#666666", label="measured")
    axes.plot([], [], color="#666666", linewidth=5, alpha=0.3, label="expected before the run")
    axes.margins(x=0.12)
    axes.legend()
    return figure


def measure():
    """Write results/step0.csv."""
    from common.input import resize_tensorflow

    dataset = data.load()
    images, labels = resize_tensorflow(dataset.test_images[:IMAGES]), dataset.test_labels[:IMAGES]
    with open(RESULTS / "step0.csv", "w", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["experiment", "seed", "pool5_std", "conv1_gradient"])
        for network in NETWORKS:
            for seed in SEEDS:
                values = signal(network.script, network.factors, seed, images, labels)
                writer.writerow([network.label, seed, *(f"{value:.4g}" for value in values)])


def main(arguments=None):
    parser = Parser(__doc__)
    parser.add_argument("--measure", action="store_true", help="measure results/step0.csv first")
    if parser.parse_args(arguments).measure:
        measure()
    with open(RESULTS / "step0.csv", encoding="utf-8") as file:
        measured = list(csv.DictReader(file))
    rows, points = [], []
    for network in NETWORKS:
        own = [row for row in measured if row["experiment"] == network.label]
        pool5, gradient = (np.mean([float(row[key]) for row in own]) for key in ("pool5_std", "conv1_gradient"))
        points.append((network, gradient, plateaus(network)))
        ends = ", ".join(f"{end:,}" if end else "not yet" for end in points[-1][2])
        expected = "{:,} to {:,}".format(*network.expected) if network.expected else ""
        rows.append([network.label, f"{pool5:.2g}", f"{gradient:.2g}", ends, expected])
    headers = ["experiment", "std at pool5", "conv1's gradient", "plateau ends, iteration", "expected"]
    print(tabulate.tabulate(rows, headers, tablefmt="simple", disable_numparse=True))
    counted = {
        network.label: [end for run, end in zip(network.runs, ends) if end and run in independent(network.runs)]
        for network, _, ends in points
    }
    known = [
        (gradient, end) for network, gradient, _ in points if network.label != "6" for end in counted[network.label]
    ]
    print("One run of each seed counts. Without 6, which has batch norm: iterations of plateau ~ gradient ^ p,")
    print("p = {:.2f} ± {:.2f}, n = {} runs".format(*exponent(*zip(*known)), len(known)))
    for stddev, without, grouped, restored in COMPARED:
        for text, label in ("groups", grouped), ("groups with the signal restored", restored):
            earlier, later = counted[without], counted[label]
            ratio, p = np.mean(later) / np.mean(earlier), permutation_p(earlier, later)[0]
            print(f"Stddev {stddev}, {text} against none: {ratio:.2f} times the iterations,", end=" ")
            print(f"exact one-sided p {p:.3f}, n = {len(later)} and {len(earlier)} runs")
    with plt.rc_context(STYLE):
        save(draw(points), RESULTS / "step0.png")


if __name__ == "__main__":
    main()
