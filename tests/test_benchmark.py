"""What python -m tests.benchmark compares, and the arithmetic of its table; no speed is measured here."""

import importlib
import json
import subprocess
import sys

from common.tensorflow import tf
import numpy as np
import pytest

from tests import benchmark, peers
from tests.benchmark import LIMIT, ROOT, THIS


@pytest.mark.slow
@pytest.mark.parametrize("experiment", (2, 5, 6))
def test_pytorch_is_the_same_network(experiment, pixels, seeds, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(tf.nn.experimental, "stateless_dropout", lambda x, *_, **__: x)
    network, other = importlib.import_module(f"alexnet{experiment}").AlexNet(), peers.pytorch_network(experiment)
    values = {variable.name.partition(":")[0]: variable.numpy() for variable in network.trainable_variables}
    for name in {name.replace("_1/", "/") for name in values if "_1/" in name}:
        values[name] = np.concatenate([values.pop(name.replace("/", f"_{group}/")) for group in (1, 2)], axis=3)
    kernel = values["fc1/weights"].reshape(6, 6, 256, 4096).transpose(2, 0, 1, 3)  # PyTorch flattens channels first
    values["fc1/weights"] = kernel.reshape(-1, 4096)
    layers = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc1", "fc2", "output")
    names = [f"{layer}/{kind}" for layer in layers for kind in ("weights", "biases", "scale", "beta")]
    with torch.no_grad():
        for name, parameter in zip([name for name in names if name in values], other.parameters(), strict=True):
            axes = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[parameter.ndim]
            parameter.copy_(torch.tensor(values[name].transpose(axes)))
        for module in other:
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        pixels = 300 * pixels  # LRN hardly shows otherwise
        found = other(torch.tensor(pixels.numpy().transpose(0, 3, 1, 2))).numpy()
    expected = network(pixels, seeds, training=True)["output"].numpy()
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)


@pytest.mark.slow
@pytest.mark.parametrize("function", [None, "article", "pytorch"])
def test_a_sample_is_a_rate_and_a_peak(function):
    if function == "pytorch":
        pytest.importorskip("torch")
    job = {"kind": "speed", "started": 0.0, "experiment": 6, "precision": "float32", "batch": 2, "device": "cpu"}
    job |= {"function": function, "options": {}, "seconds": 0.1}
    command = [sys.executable, "-m", "tests.benchmark", "--sample", json.dumps(job)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    taken = json.loads(process.stdout)
    assert 0.01 < taken["rate"] < 1000 and 500 < taken["peak"] < 4000


def test_flops_are_those_of_the_specification():
    assert benchmark.flops(2) == benchmark.flops(6) == pytest.approx(6.30e9, rel=2e-3)
    assert benchmark.flops(2) - benchmark.flops(5) == 6 * 13**2 * 9 * (384 * 384 + 384 * 256) // 2


def taken(*rates):
    """A sample for each turn; None: the turn was cut short."""
    return {turn: {"rate": rate, "peak": 1000} for turn, rate in enumerate(rates) if rate}


def test_ratios_are_taken_within_a_turn():
    limit = benchmark.flops(2) * 100
    samples = {(LIMIT, "float32"): taken(limit, 2 * limit, limit), (THIS, "float32"): taken(90, 180, 80)}
    samples |= {("PyTorch", "float32"): taken(45, 60, None), (THIS, "mixed"): taken(180, 270, 160)}
    _, _, best, ours, pytorch, mixed, _ = benchmark.table(samples, 2, 200)
    assert best.endswith(f"{limit / 1e9:.0f} ({limit / 1e9:.0f}-{2 * limit / 1e9:.0f}) GFLOP/s")
    assert "90.0 (80.0-180.0)" in ours and "90 %" in ours
    assert pytorch.endswith("ours 2.50 (2.00-3.00) x") and mixed.endswith("2.00 (1.50-2.00) x float32")


def test_turns_cut_short_have_no_ratio():
    samples = {(THIS, "float32"): taken(1), ("PyTorch", "float32"): taken(None, 1), (THIS, "mixed"): taken(None, 1)}
    assert all(line.endswith("1000  1") for line in [*benchmark.table(samples, 2, 200)][2:5])
