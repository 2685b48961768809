"""What python -m tests.benchmark compares, and the arithmetic of its table; it measures no speed here."""

import importlib
import json
import subprocess
import sys

from common.tensorflow import tf
import numpy as np
import pytest

from tests import benchmark, peers
from tests.benchmark import LIMIT, ROOT, THIS


@pytest.fixture(params=(2, 5, 6), ids=lambda n: f"alexnet{n}")
def compared(request, pixels, seeds, monkeypatch):
    """An experiment, its initial values by name, some pixels, and their logits without dropout."""
    monkeypatch.setattr(tf.nn.experimental, "stateless_dropout", lambda x, *given, **named: x)
    network = importlib.import_module(f"alexnet{request.param}").AlexNet()
    values = {variable.name.partition(":")[0]: variable.numpy() for variable in network.trainable_variables}
    pixels = 300 * pixels  # LRN hardly shows otherwise
    return request.param, values, pixels.numpy(), network(pixels, seeds, training=True)["output"].numpy()


@pytest.mark.slow
def test_the_others_begin_with_the_same_variables(compared):
    experiment, values, _, _ = compared
    assert {name: value.shape for name, value in peers.initial(experiment).items()} == {
        name: value.shape for name, value in values.items()
    }


@pytest.mark.slow
def test_pytorch_is_the_same_network(compared):
    torch = pytest.importorskip("torch")
    experiment, values, pixels, logits = compared
    _, forward = peers.pytorch_network(values, experiment, "cpu")
    got = forward(torch.tensor(pixels.transpose(0, 3, 1, 2)), dropout=False).detach().numpy()
    assert np.linalg.norm(got - logits) < 1e-3 * np.linalg.norm(logits)


@pytest.mark.slow
@pytest.mark.parametrize("function", [None, "article"])
def test_a_sample_is_a_rate_and_a_peak(function):
    job = {"kind": "speed", "started": 0.0, "experiment": 6, "precision": "float32", "batch": 2, "device": "cpu"}
    job |= {"function": function, "options": {}, "seconds": 0.1}
    command = [sys.executable, "-m", "tests.benchmark", "--sample", json.dumps(job)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    taken = json.loads(process.stdout)
    assert process.returncode == 0 and 0.01 < taken["rate"] < 1000 and 500 < taken["peak"] < 4000


@pytest.mark.slow
def test_ours_advances_by_the_steps_asked_for():
    code = (
        "import tests.benchmark as b, common.training as t\n"
        "class Short(t.Training):\n"
        "    calls = 0\n"
        "    def __init__(self, *given):\n"
        "        super().__init__(*given)\n"
        "        train, self.iterations = self.train, 3\n"
        "        def counted(*given):\n"
        "            Short.calls += 1\n"
        "            return train(*given)\n"
        "        self.train = counted\n"
        "shuffled, t.shuffled = t.shuffled, lambda *given: shuffled(*given)[:3]\n"
        "t.Training = Short\n"
        "advance = b.ours(5, 'float32', 2, 'cpu')\n"
        "for steps in (1, 1, 4, 2):\n"
        "    before = Short.calls\n"
        "    advance(steps)\n"
        "    print(Short.calls - before)\n"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.stdout.split() == ["1", "1", "4", "2"], process.stderr


def test_flops_are_those_of_the_specification():
    assert benchmark.flops(2) == benchmark.flops(6) == pytest.approx(6.30e9, rel=2e-3)
    assert benchmark.flops(2) - benchmark.flops(5) == 6 * 13**2 * 9 * (384 * 384 + 384 * 256) // 2


def test_table_takes_ratios_within_a_turn():
    def taken(*rates):
        return {turn: {"rate": rate, "peak": 1000, "ready": 5} for turn, rate in enumerate(rates) if rate}

    limit = benchmark.flops(2) * 100
    samples = {
        (LIMIT, "float32"): taken(limit, 2 * limit, limit),
        (THIS, "float32"): taken(90, 180, 80),
        ("PyTorch", "float32"): taken(45, 60, None),
        (THIS, "mixed"): taken(180, 270, 160),
    }
    lines = [*benchmark.table(samples, 2, 200)]
    assert "90.0 (80.0-180.0)" in lines[2] and "90 %" in lines[2]
    assert lines[3].endswith("ours 2.50 (2.00-3.00) x")
    assert lines[4].endswith("2.00 (1.50-2.00) x float32")
    assert f"limit, float32: {limit / 1e9:.0f} ({limit / 1e9:.0f}-{2 * limit / 1e9:.0f}) GFLOP/s" in lines[5]


def test_table_of_turns_cut_short_has_no_ratio():
    one, two = ({turn: {"rate": 1.0, "peak": 1000, "ready": 5}} for turn in (0, 1))
    samples = {(THIS, "float32"): one, ("PyTorch", "float32"): two, (THIS, "mixed"): two}
    assert all("x" not in line.rpartition("5.0")[2] for line in [*benchmark.table(samples, 2, 200)][2:5])
