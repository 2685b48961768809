"""The session set-up: devices, precision, banner. Whatever changes the process runs in a fresh one."""

import argparse
import contextlib
import importlib
import os
import platform
import re
import subprocess
import sys
from types import SimpleNamespace

from common import data, machine, report, session
from common.cli import UserError
from common.input import TensorFlowInput, resize_tensorflow
from common.step import REWRITE_LISTS, BatchMetrics, compile_steps
from common.tensorflow import tf
from conftest import ROOT, in_process
import numpy as np
import pytest

from tests import parity


def mixed_step(device):
    """What a step of experiments 4 and 6 computes in --precision mixed."""
    _, facts = session.open_session(device, "mixed")
    mnist = data.load()
    digits, classes = mnist.train_images[:8], mnist.train_labels[:8]
    labels, seeds = tf.one_hot(classes, 10), tf.constant([[1, 2], [3, 4]], tf.int64)
    found = {"precision": facts["precision"]}
    for name in ("alexnet4", "alexnet6"):
        module = importlib.import_module(name)
        network = module.AlexNet()

        def step(digits):
            with tf.GradientTape() as tape:
                layers = network(resize_tensorflow(digits), seeds, training=True)  # noqa: B023
                loss = module.naive_loss(layers["output"], labels)  # noqa: B023
            return loss, layers["output"], tape.gradient(loss, network.trainable_variables)[0]  # noqa: B023

        loss, logits, gradient = tf.function(step)(digits)
        running = [value.numpy() for value in getattr(network, "running_variances", {}).values()]
        exact = module.naive_loss(tf.constant(logits.numpy()), labels)  # eager: never rewritten
        reference = step(digits)[1]
        source = TensorFlowInput(digits, classes)
        evaluate = compile_steps(network, module.naive_loss, source, source, xla=False)[1]
        (batch,) = source.batches(np.arange(8, dtype=np.int32)[np.newaxis])
        measured = BatchMetrics.from_vector(evaluate(batch, seeds))
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
        outputs = tf.nn.conv2d(resize_tensorflow(digits), kernel, 4, "VALID")
        return outputs, *moments(outputs)

    outputs, *computed = tf.function(convolved)(tf.random.normal([11, 11, 1, 96]) + 1)
    exact = moments(tf.constant(outputs.numpy()))
    found["moments"] = [float(np.abs(ours / theirs - 1).max()) for ours, theirs in zip(computed, exact)]
    return found


def assert_mixed_keeps_the_loss_and_the_moments_in_float32(device, dtype):
    found = in_process(mixed_step, device)
    assert found["precision"] == f"mixed {dtype}"
    for name in ("alexnet4", "alexnet6"):
        assert found[name]["logits"] > 1e-4  # the products were computed in 16 bits
        assert found[name]["loss"] < 1e-6  # 16 bits would round it to 2 or 3 digits
        assert found[name]["dtypes"] == ["float32"]
        loss, *rounded = found[name]["measured"]
        assert loss not in rounded
    assert len(found["moments"]) == 4 and max(found["moments"]) < 1e-5
    running = found["alexnet6"]["running"]
    assert len(running) == 7 and max(running) < 0.1  # few happen to be representable in 16 bits


@pytest.mark.skipif(not machine.bfloat16(), reason="this processor has no bfloat16 arithmetic")
def test_mixed_on_the_cpu():
    assert_mixed_keeps_the_loss_and_the_moments_in_float32("cpu", "bfloat16")


def mixed_errors(experiment):
    session.open_session("cpu", "mixed")
    return parity.mixed_errors(experiment)


@pytest.mark.slow
@pytest.mark.skipif(not machine.bfloat16(), reason="this processor has no bfloat16 arithmetic")
@pytest.mark.parametrize("experiment", (2, 6))
def test_a_mixed_step_equals_the_article_s_up_to_rounding(experiment):
    found = in_process(mixed_errors, experiment)
    errors = [error for columns in found.values() for error in columns.values()]
    assert len(errors) == 6 and 1e-3 < max(errors) < parity.MIXED_BOUND


@pytest.mark.gpu
def test_mixed_on_the_gpu():
    assert_mixed_keeps_the_loss_and_the_moments_in_float32("gpu", "float16")


@pytest.mark.parametrize(
    "given, gpu, bfloat16, words",
    [
        ({"xla": True, "precision": "mixed"}, "GPU", True, "--xla"),
        ({"xla": True, "deterministic": True}, "GPU", True, "--xla"),
        ({"precision": "mixed"}, None, False, "no bfloat16"),
        ({"gpu_memory_fraction": 0.5}, None, True, "--gpu-memory-fraction"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_flags_that_exclude_each_other(given, gpu, bfloat16, words, monkeypatch):
    monkeypatch.setattr(session, "bfloat16", lambda: "avx512_bf16" * bfloat16)
    usual = {"precision": "float32", "xla": False, "deterministic": False, "gpu_memory_fraction": None}
    with pytest.raises(UserError, match=words):
        session.check(gpu, **usual | given)


def test_choosing_a_device(monkeypatch):
    monkeypatch.setattr(session.tf.config, "list_physical_devices", lambda kind: ["first", "second"])
    assert [session.choose_gpu(d) for d in ("auto", "cpu", "gpu", "gpu:1")] == ["first", None, "first", "second"]
    with pytest.raises(UserError, match="--device gpu:2: TensorFlow sees 2 GPU"):
        session.choose_gpu("gpu:2")
    monkeypatch.setattr(session.tf.config, "list_physical_devices", lambda kind: [])
    assert session.choose_gpu("auto") is None


@pytest.mark.parametrize(
    "visible, node, driver, fix",
    [
        ("-1", "nvidia0", True, "unset it"),
        ("", "nvidia0", True, "CUDA_VISIBLE_DEVICES='' hides every GPU; unset it"),
        ("none", "nvidia0", True, "CUDA_VISIBLE_DEVICES='none' hides every GPU; unset it"),
        ("1,0", "nvidia0", True, "CUDA_VISIBLE_DEVICES='1,0' hides every GPU; unset it"),
        ("0", "nvidia0", True, "driver 535.104.05.* requirements-gpu.txt"),
        ("5", "dxg", False, "requirements-gpu.txt.* CUDA_VISIBLE_DEVICES=5 names it"),
        ("GPU-6b1c", "nvidia0", True, "requirements-gpu.txt.* CUDA_VISIBLE_DEVICES=GPU-6b1c names it"),
        ("NoDevFiles", None, True, "Slurm gave this job no GPU"),
        (None, "nvidia0", True, "driver 535.104.05.* requirements-gpu.txt"),
        (None, "dxg", False, "no driver.* requirements-gpu.txt"),
        (None, "nvidiactl", True, "driver 535.104.05 is here but no GPU device; .*--gpus all"),
        (None, None, False, "no NVIDIA driver"),
    ],
)
def test_a_missing_gpu_is_explained(visible, node, driver, fix, monkeypatch, tmp_path):
    """A container may have the driver of its host but none of its devices."""
    monkeypatch.setattr(session.tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setattr(machine, "DEV", tmp_path)
    monkeypatch.setattr(machine, "DRIVER", tmp_path / "version")
    if node:
        (tmp_path / node).touch()
    if driver:
        (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19\n")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UserError, match=f"--device gpu: .*{fix}"):
        session.choose_gpu("gpu")


def test_tf32_needs_compute_capability_8():
    assert [machine.has_tf32({"compute_capability": version}) for version in ((7, 5), (8, 0), (12, 0))] == [0, 1, 1]
    assert not machine.has_tf32({})


def test_the_processor_s_name_includes_its_generation(monkeypatch):
    facts = {"model name": "AMD EPYC", "cpu family": "26", "model": "2", "flags": "avx512f avx512_bf16"}
    monkeypatch.setattr(machine, "processor", lambda fact: facts.get(fact, ""))
    assert machine.cpu_name() == "AMD EPYC, family 26 model 2, avx512_bf16"
    facts = {"flags": "amx_bf16 avx512_bf16"}
    assert machine.cpu_name() == f"{platform.machine()}, amx_bf16"
    facts = {}
    assert machine.cpu_name() == platform.machine()


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
    monkeypatch.setattr(report, "gpu_missing", lambda: "why; fix")
    text = report.banner(FACTS, argparse.Namespace(seed=3, device="auto"))
    for words in ("TensorFlow 2.21.0", "CUDA 12.5.1", "A processor, 2 threads", "float32, deterministic, seed 3"):
        assert words in text
    assert text.endswith("\nNo usable GPU: why; fix")
    gpu = {**FACTS, "device": "GPU", "memory": "growth", "tf32": True}
    text = report.banner(gpu, argparse.Namespace(seed=3, device="auto"))
    assert "memory growth" in text and "TF32" in text and "No usable GPU" not in text


def test_stderr_is_dropped_on_success_and_kept_on_failure(capfd):
    with session.quiet_stderr():
        os.write(2, b"a notice\n")
    with pytest.raises(OSError), session.quiet_stderr():
        os.write(2, b"the reason\n")
        raise OSError
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "the reason\nafterwards\n"


@pytest.mark.slow
def test_importing_tensorflow_is_quiet_and_failures_are_not(tmp_path):
    def run(*command):
        return subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT, env=env)

    env = {**os.environ, "TF_XLA_FLAGS": "--no_such=1"}  # TensorFlow itself ends the process once it opens a session
    done = run("-c", "import alexnet1")
    assert (done.stdout, done.stderr) == ("", "")
    done = run("alexnet1.py", "--device", "cpu", "--results-dir", str(tmp_path))
    assert done.returncode == 1 and "Unknown flag in TF_XLA_FLAGS: --no_such=1" in done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr


def test_a_precision_that_tensorflow_does_not_compute_in_is_refused(monkeypatch):
    session.require_precision("float32")
    with pytest.raises(UserError, match="mixed: TensorFlow does not round to bfloat16 here; set TF_ENABLE"):
        session.require_precision("mixed")
    monkeypatch.setattr(tf, "function", lambda function, **_: lambda factor: tf.fill([8, 8], 8.0))
    session.require_precision("mixed")
    with pytest.raises(UserError, match="float32: TensorFlow rounds to bfloat16 here; unset TF_SET_ONEDNN"):
        session.require_precision("float32")


def open_sessions(*precisions):
    """(precision, threads, environment, whether no random number was drawn) of sessions that follow each other."""
    session.bfloat16 = lambda: "avx512_bf16"  # oneDNN also rounds on other processors, only slowly
    found = []
    for precision in precisions:
        facts = session.open_session("cpu", precision, seed=3)[1]
        drawn = tf.random.normal([2]).numpy().tolist()
        tf.random.set_seed(3)
        undrawn = drawn == tf.random.normal([2]).numpy().tolist()
        found.append((facts["precision"], facts["threads"], facts["environment"], undrawn))
    return found


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="TensorFlow has the rewrite only on x86_64")
def test_a_run_computes_in_the_precision_that_it_records(monkeypatch):
    """And the operations that test the device draw none of the run's random numbers."""
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    with pytest.raises(UserError, match="set TF_ENABLE_ONEDNN_OPTS=1"):
        in_process(open_sessions, "mixed")
    given = {"TF_ENABLE_ONEDNN_OPTS": "1", "TF_NUM_INTRAOP_THREADS": "5"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    mixed, float32 = ("mixed bfloat16", 5, given, True), ("float32", 5, given, True)
    assert in_process(open_sessions, "float32", "mixed", "float32") == [float32, mixed, float32]


def test_variables_that_change_digits_are_facts(monkeypatch):
    for name in machine.environment():
        monkeypatch.delenv(name)
    given = {"NVIDIA_TF32_OVERRIDE": "0", "ONEDNN_MAX_CPU_ISA": "AVX2", "TF_ENABLE_ONEDNN_OPTS": "0"}
    given |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_XLA_FLAGS": "--tf_xla_auto_jit=2", "XLA_FLAGS": "--xla_cpu_x=1"}
    others = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_TOKEN_app_terraform_io": "secret", "NVIDIA_VISIBLE_DEVICES": "all"}
    for name, value in {**given, **others, **REWRITE_LISTS}.items():
        monkeypatch.setenv(name, value)
    assert machine.environment(ours=REWRITE_LISTS) == given


def test_the_number_of_threads_is_the_one_in_use(monkeypatch):
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    available = machine.threads()
    assert available >= 1
    for value, threads in {"1": 1, "07": 7, "0": available, "many": available, "": available}.items():
        monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", value)
        assert machine.threads() == threads


def test_a_working_device_passes_and_no_random_number_is_drawn():
    drawn = []
    for attempt in lambda: None, lambda: session.first_failure("/CPU:0", xla=True):
        tf.random.set_seed(3)
        assert attempt() is None
        drawn.append(tf.random.normal([4]).numpy().tolist())
    assert drawn[0] == drawn[1]


LOST = "{{function_node __wrapped__X}} DNN library initialization failed. "
LOST += "Look at the errors above for more details. [Op:Conv2D] name: \nmore"


@pytest.mark.parametrize(
    "broken, error, words",
    [
        (
            "ones",
            tf.errors.InternalError(None, None, "CUDA_ERROR_INVALID_PTX"),
            r"a product fails .*\(CUDA_ERROR_INVAL",
        ),
        ("nn.conv2d", tf.errors.UnimplementedError(None, None, LOST), r"a convolution fails .*\(DNN library init\S+ f"),
        ("random.stateless_uniform", RuntimeError("CUDA_ERROR_INVALID_HANDLE"), "a random operation fails"),
        (
            "function",
            tf.errors.InternalError(None, None, "libdevice not found at ./libdevice.10.bc"),
            "XLA fails .*libdevice",
        ),
        ("ones", tf.errors.ResourceExhaustedError(None, None, "OOM"), r"no memory left \(OOM\); wait .*nvidia-smi"),
        ("ones", tf.errors.InternalError(None, None, "CUDA: out of memory"), "has no memory left"),
    ],
    ids=["product", "convolution", "random", "XLA", "memory", "memory of CUDA"],
)
@pytest.mark.parametrize("device", ["auto", "gpu"])
def test_a_broken_gpu_is_one_line_before_training(device, broken, error, words, monkeypatch, capfd):
    """As in TensorFlow 2.21 on a card that it lists although it has no kernels for it."""

    def fails(*_, **__):
        os.write(2, b"many lines")
        raise error

    card = SimpleNamespace(name="/physical_device:GPU:0")
    details = {"device_name": "NVIDIA GeForce RTX 5090", "compute_capability": (12, 0)}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [card])
    monkeypatch.setattr(tf, "device", lambda name: contextlib.nullcontext())
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *_: None)
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda *_: None)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
    holder, _, name = broken.rpartition(".")
    broken_one = (lambda *_, **__: fails) if broken == "function" else fails
    monkeypatch.setattr(getattr(tf, holder) if holder else tf, name, broken_one)
    with pytest.raises(UserError, match=f"^--device {device}: .*NVIDIA GeForce RTX 5090") as raised:
        session.open_session(device, xla=broken == "function")
    message = str(raised.value)
    assert (
        re.search(words, message)
        and "\n" not in message
        and "[Op" not in message
        and "above" not in message
        and "{{" not in message
    )
    if "memory" not in words:
        for part in ("capability 12.0", "was built for CUDA", "--device cpu", "requirements-gpu.txt", "container"):
            assert part in message
    assert capfd.readouterr().err == ""


def test_no_temporary_folder_is_needed():
    code = "import tempfile; tempfile._candidate_tempdir_list = list; import common.session"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
