"""The session set-up: devices, precision, banner. What changes the process runs in one of its own."""

import argparse
import json
import os
import subprocess
import sys

from common import report, session
from common.arguments import parse
from common.cli import UserError
from conftest import ROOT
import pytest

from tests import parity

MIXED = """
import importlib, json, sys
from common.arguments import parse
from common.input import TensorFlowInput, resize_tensorflow
from common.session import open_session, tf
from common import data
from common.step import Measured, compile_steps
import numpy as np

device = sys.argv[1]
_, facts = open_session(parse("x.py", None, ["--precision", "mixed", "--device", device]))
mnist = data.load()
labels = tf.one_hot(mnist.train_labels[:8], 10)
seeds = tf.constant([[1, 2], [3, 4]], tf.int64)
found = {"precision": facts["precision"]}
for name in ("alexnet4", "alexnet6"):
    module = importlib.import_module(name)
    network = module.AlexNet()

    def step(digits):
        with tf.GradientTape() as tape:
            layers = network(resize_tensorflow(digits), seeds, training=True)
            loss = module.naive_loss(layers["output"], labels)
        gradients = tape.gradient(loss, network.trainable_variables)
        return loss, layers["output"], gradients[0]

    loss, logits, gradient = tf.function(step)(mnist.train_images[:8])
    running = [value.numpy() for value in getattr(network, "running_variances", {}).values()]
    exact = module.naive_loss(tf.constant(logits.numpy()), labels)  # eager: never rewritten
    reference = step(mnist.train_images[:8])[1]
    source = TensorFlowInput(mnist.train_images[:8], mnist.train_labels[:8])
    evaluate = compile_steps(network, module.naive_loss, source, source, xla=False)[1]
    (element,) = source.batches(np.arange(8, dtype=np.int32)[np.newaxis])
    measured = Measured.of(evaluate(element, seeds))
    found[name] = {
        "measured": [measured.loss, *(float(tf.cast(measured.loss, half)) for half in (tf.bfloat16, tf.float16))],
        "loss": abs(float(loss / exact) - 1),
        "logits": float(tf.norm(logits - reference) / tf.norm(reference)),
        "running": [float(np.mean(value == tf.cast(tf.cast(value, tf.float16), tf.float32))) for value in running],
        "dtypes": sorted({loss.dtype.name, logits.dtype.name, gradient.dtype.name}),
    }

def moments(outputs):
    fused = tf.compat.v1.nn.fused_batch_norm(outputs, tf.ones([96]), tf.zeros([96]))
    return *tf.nn.moments(outputs, [0, 1, 2]), *fused[1:]

def convolved(kernel):
    outputs = tf.nn.conv2d(resize_tensorflow(mnist.train_images[:8]), kernel, 4, "VALID")
    return outputs, *moments(outputs)

outputs, *found["moments"] = tf.function(convolved)(tf.random.normal([11, 11, 1, 96]) + 1)
exact = moments(tf.constant(outputs.numpy()))
found["moments"] = [float(np.abs(ours / theirs - 1).max()) for ours, theirs in zip(found["moments"], exact)]
print(json.dumps(found))
"""


def python(code, *arguments, **environment):
    """Run code in a process of its own, in the repository's root; returns the finished process."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


def assert_mixed_keeps_the_loss_and_the_moments_in_float32(device, dtype):
    done = python(MIXED, device)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["precision"] == f"mixed {dtype}"
    for name in ("alexnet4", "alexnet6"):
        assert found[name]["logits"] > 1e-4  # the products did run in 16 bits
        assert found[name]["loss"] < 1e-6  # 16 bits would round it to 2 or 3 digits
        assert found[name]["dtypes"] == ["float32"]
        loss, *rounded = found[name]["measured"]
        assert loss not in rounded
    assert len(found["moments"]) == 4 and max(found["moments"]) < 1e-5
    running = found["alexnet6"]["running"]
    assert len(running) == 7 and max(running) < 0.1  # few of them happen to be what 16 bits can hold


@pytest.mark.skipif(not session.bfloat16(), reason="this processor has no bfloat16 arithmetic")
def test_mixed_on_the_cpu():
    assert_mixed_keeps_the_loss_and_the_moments_in_float32("cpu", "bfloat16")


@pytest.mark.slow
@pytest.mark.skipif(not session.bfloat16(), reason="this processor has no bfloat16 arithmetic")
@pytest.mark.parametrize("experiment", (2, 6))
def test_a_mixed_step_is_the_article_s_but_for_the_rounding(experiment):
    code = "import sys; from tests import parity; parity.print_mixed([int(sys.argv[1])])"
    done = python(code, str(experiment))
    assert done.returncode == 0, done.stderr
    _, _, *rows = done.stdout.splitlines()
    errors = [float(error) for row in rows for error in row.split()[-3:]]
    assert len(errors) == 6 and 1e-3 < max(errors) < parity.MIXED_BOUND


@pytest.mark.gpu
def test_mixed_on_the_gpu():
    assert_mixed_keeps_the_loss_and_the_moments_in_float32("gpu", "float16")


def flags(*given):
    return parse("x.py", None, list(given))


@pytest.mark.parametrize(
    "given, gpu, bfloat16, words",
    [
        (["--xla", "--precision", "mixed"], "GPU", True, "--xla"),
        (["--xla", "--deterministic"], "GPU", True, "--xla"),
        (["--precision", "mixed"], None, False, "no bfloat16"),
        (["--gpu-memory-fraction", "0.5"], None, True, "--gpu-memory-fraction"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_that_exclude_each_other(given, gpu, bfloat16, words, monkeypatch):
    monkeypatch.setattr(session, "bfloat16", lambda: "avx512_bf16" * bfloat16)
    with pytest.raises(UserError, match=words):
        session.check(flags(*given), gpu)


def test_choosing_a_device(monkeypatch):
    monkeypatch.setattr(session.tf.config, "list_physical_devices", lambda kind: ["first", "second"])
    assert [session.choose_gpu(d) for d in ("auto", "cpu", "gpu", "gpu:1")] == ["first", None, "first", "second"]
    with pytest.raises(UserError, match="--device gpu:2: TensorFlow sees 2 GPU"):
        session.choose_gpu("gpu:2")
    monkeypatch.setattr(session.tf.config, "list_physical_devices", lambda kind: [])
    assert session.choose_gpu("auto") is None


@pytest.mark.parametrize(
    "visible, node, driver, mend",
    [
        ("-1", "nvidia0", True, "unset it"),
        (None, "nvidia0", True, "driver 535.104.05.* requirements-gpu.txt"),
        (None, "dxg", False, "no driver.* requirements-gpu.txt"),
        (None, "nvidiactl", True, "driver 535.104.05 is here but no GPU device; .*--gpus all"),
        (None, None, False, "no NVIDIA driver"),
    ],
)
def test_a_gpu_that_is_not_there_is_explained(visible, node, driver, mend, monkeypatch, tmp_path):
    """A container may have the driver of its host but none of its devices."""
    monkeypatch.setattr(session.tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setattr(session, "DEV", tmp_path)
    monkeypatch.setattr(session, "DRIVER", tmp_path / "version")
    if node:
        (tmp_path / node).touch()
    if driver:
        (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19\n")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UserError, match=f"--device gpu: .*{mend}"):
        session.choose_gpu("gpu")


def test_tf32_is_what_the_card_has():
    assert [session.has_tf32({"compute_capability": version}) for version in ((7, 5), (8, 0), (12, 0))] == [0, 1, 1]
    assert not session.has_tf32({})


def test_the_processor_s_name_tells_its_generation(monkeypatch):
    facts = {"model name": "AMD EPYC", "cpu family": "26", "model": "2", "flags": "avx512f avx512_bf16"}
    monkeypatch.setattr(session, "processor", lambda fact: facts.get(fact, ""))
    assert session.cpu_name() == "AMD EPYC, family 26 model 2, avx512_bf16"
    facts = {"flags": "amx_bf16 avx512_bf16"}
    assert session.cpu_name() == f"{session.platform.machine()}, amx_bf16"
    facts = {}
    assert session.cpu_name() == session.platform.machine()


FACTS = {
    "device": "CPU",
    "device_name": "A processor",
    "memory": None,
    "threads": 2,
    "precision": "float32",
    "tf32": False,
    "xla": False,
    "deterministic": True,
    "versions": {"python": "3.13.0", "tensorflow": "2.21.0", "cuda": "12.5.1", "cudnn": "9"},
}


def test_banner(monkeypatch):
    monkeypatch.setattr(report, "nvidia_present", lambda: True)
    monkeypatch.setattr(report, "gpu_missing", lambda: "why; mend")
    text = report.banner(FACTS, argparse.Namespace(seed=3, device="auto"))
    for words in ("TensorFlow 2.21.0", "CUDA 12.5.1", "A processor, 2 threads", "float32, deterministic, seed 3"):
        assert words in text
    assert text.endswith("\nNo usable GPU: why; mend")
    gpu = {**FACTS, "device": "GPU", "memory": "growth", "tf32": True}
    text = report.banner(gpu, argparse.Namespace(seed=3, device="auto"))
    assert "memory growth" in text and "TF32" in text and "No usable GPU" not in text


@pytest.mark.slow
def test_importing_tensorflow_is_quiet_and_failures_are_not():
    done = python("import alexnet1")
    assert (done.stdout, done.stderr) == ("", "")
    failing = "with quiet_stderr():\n  os.write(2, b'lost?')\n  raise OSError"
    done = python(f"import os\nfrom common.session import quiet_stderr\n{failing}")
    assert "lost?" in done.stderr
