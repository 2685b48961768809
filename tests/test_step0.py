"""The signal at step 0: weights scaled as if drawn with another stddev, the fit, and the committed table."""

from common.plots.pictures import fingerprint
from conftest import ROOT
import numpy as np
from PIL import Image
import pytest
import step0


@pytest.mark.slow
def test_scaled_weights_are_those_of_another_stddev():
    from common.tensorflow import tf

    networks = []
    for stddev, factors in ("0.01", {"all": 2}), ("0.02", {}):
        text = (ROOT / "alexnet2.py").read_text("utf-8").replace("mean=0.0, stddev=0.01", f"mean=0.0, stddev={stddev}")
        module = {"__name__": "changed"}
        exec(text, module)
        tf.random.set_seed(0)
        networks.append(module["AlexNet"]())
        step0.scale(networks[-1], factors)
    for one, other in zip(*(network.trainable_variables for network in networks)):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_factor_reaches_both_groups_and_no_bias():
    from common.tensorflow import tf

    names = "conv3/weights", "conv4_1/weights", "conv4_2/weights", "conv4/biases"
    variables = [tf.Variable(1.0, name=name) for name in names]
    network = type("Network", (), {"trainable_variables": variables})
    step0.scale(network, {"conv4": 2})
    assert [float(variable) for variable in variables] == [1, 2, 2, 1]


def test_the_exponent_of_a_power_law():
    slope, error = step0.exponent([1, 10, 100, 1000], [800, 80, 8, 0.8])
    assert slope == pytest.approx(-1) and error < 1e-6


def test_the_committed_table_is_that_of_the_committed_files(capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(step0, "save", lambda figure, path: drawn.append(fingerprint(figure)))
    step0.main([])
    assert capsys.readouterr().out == (ROOT / "results" / "step0.txt").read_text("utf-8")
    assert drawn == [Image.open(ROOT / "results" / "step0.png").text["Comment"]]
