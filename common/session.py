"""The session: today's equivalent of the article's GPUOptions and ConfigProto."""

import platform
import re

from common.cli import UserError
from common.machine import bfloat16, cpu_name, environment, gpu_memory, gpu_missing, has_tf32, threads
from common.step import REWRITE_LISTS, set_precision
from common.tensorflow import quiet_stderr, tf
import cv2
import numpy as np

FREE_MEMORY = "wait for the other processes on it (nvidia-smi lists them), or choose another --device"


def choose_gpu(wanted):
    """The physical GPU for --device (auto, cpu, gpu or gpu:N), or None for the CPU."""
    with quiet_stderr():
        gpus = tf.config.list_physical_devices("GPU")
    if wanted == "cpu":
        return None
    if wanted == "auto":
        return gpus[0] if gpus else None
    if not gpus:
        raise UserError(f"--device {wanted}: {gpu_missing()}")
    number = int(wanted.partition(":")[2] or 0)
    if number >= len(gpus):
        raise UserError(f"--device {wanted}: TensorFlow sees {len(gpus)} GPU(s), counted from 0; choose another")
    return gpus[number]


def require_precision(wanted):
    """Raise UserError unless a compiled product rounds to bfloat16 on the CPU if mixed is wanted, and only then.

    Without oneDNN the graph rewrite of --precision mixed has no effect, and TensorFlow says nothing.
    """
    nearly_one = tf.fill([8, 8], 1 + 2.0**-12)  # in bfloat16 it is 1; an argument, as constants are folded in float32
    rounds = bool(np.all(tf.function(lambda factor: factor @ factor, autograph=False)(nearly_one) == 8))
    if rounds and wanted == "float32":
        raise UserError("--precision float32: TensorFlow rounds to bfloat16 here; unset TF_SET_ONEDNN_FPMATH_MODE")
    if not rounds and wanted == "mixed":
        fix = "set TF_ENABLE_ONEDNN_OPTS=1, or use --precision float32"
        raise UserError(f"--precision mixed: TensorFlow does not round to bfloat16 here; {fix}")


def first_failure(device, xla):
    """(operation, its error) of the first of a few small operations that fails on a device; None if all work.

    None of them moves TensorFlow's random state.
    """
    operations = {
        "a product": lambda: tf.ones([8, 8]) @ tf.ones([8, 8]),
        "a convolution": lambda: tf.nn.conv2d(tf.ones([1, 8, 8, 1]), tf.ones([3, 3, 1, 1]), strides=1, padding="VALID"),
        "a random operation": lambda: tf.random.stateless_uniform([8], seed=[0, 0]),
    }
    if xla:
        operations["XLA"] = tf.function(
            lambda: tf.tanh(operations["a random operation"]()), jit_compile=True, autograph=False
        )
    with quiet_stderr(), tf.device(device):
        for name, operation in operations.items():
            try:
                operation().numpy()
            except Exception as error:
                return name, error
    return None


def require_working_gpu(wanted, xla, details, build):
    """Raise UserError if the GPU chosen by --device wanted does not work, although TensorFlow lists it.

    details and build are TensorFlow's descriptions of the GPU and of itself.
    """
    failure = first_failure("/GPU:0", xla)
    if failure is None:
        return
    operation, error = failure
    noise = r"\{\{.*?\}\} ?| Look at the errors above for more details\.?| \[Op:.*"
    reason = re.sub(noise, "", str(error).strip().partition("\n")[0])
    card = details.get("device_name", "the GPU")
    if isinstance(error, tf.errors.ResourceExhaustedError) or "out of memory" in str(error).lower():
        raise UserError(f"--device {wanted}: {card} has no memory left ({reason}); {FREE_MEMORY}")
    capability = ".".join(map(str, details.get("compute_capability", ("unknown",))))
    made_for = f"CUDA {build.get('cuda_version')}, cuDNN {build.get('cudnn_version')}"
    made_for += f", {' '.join(build.get('cuda_compute_capabilities', []))}"
    raise UserError(
        f"--device {wanted}: {operation} fails on {card}, compute capability {capability} ({reason}); TensorFlow "
        f"{tf.__version__} was built for {made_for}: use --device cpu, pip install -r requirements-gpu.txt, or, for "
        "a newer card, NVIDIA's TensorFlow container"
    )


def check(gpu, precision, xla, deterministic, gpu_memory_fraction):
    """Raise UserError for flags that exclude each other, or that the device (a GPU, or None for the CPU) excludes."""
    if xla and precision == "mixed":
        raise UserError("--xla: does not see the graph rewrite of --precision mixed; leave one of the two out")
    if gpu is None and precision == "mixed" and not bfloat16():
        raise UserError("--precision mixed: this processor has no bfloat16 arithmetic; use --precision float32")
    if gpu is None and gpu_memory_fraction is not None:
        raise UserError("--gpu-memory-fraction: there is no GPU in this run; leave the flag out")
    if gpu is not None and xla and deterministic:
        raise UserError("--xla: has no deterministic max-pool gradient on a GPU; leave out --deterministic")


def open_session(
    device="auto",
    precision="float32",
    seed=0,
    xla=False,
    deterministic=False,
    no_tf32=False,
    gpu_memory_fraction=None,
    log_device_placement=False,
):
    """Set TensorFlow up before its first operation; returns (device string, facts for the record).

    The parameters are the flags of the same names. UserError for a device that is missing or does not work, and for
    flags that exclude each other.
    """
    gpu = choose_gpu(device)
    check(gpu, precision, xla, deterministic, gpu_memory_fraction)
    tf.config.set_soft_device_placement(True)
    tf.debugging.set_log_device_placement(log_device_placement)
    tf.config.experimental.enable_tensor_float_32_execution(not no_tf32)
    tf.random.set_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    name, memory, tf32 = cpu_name(), None, False
    if gpu is None:
        tf.config.set_visible_devices([], "GPU")
    else:
        tf.config.set_visible_devices(gpu, "GPU")
        details = tf.config.experimental.get_device_details(gpu)
        name = details.get("device_name", gpu.name)
        tf32 = not no_tf32 and has_tf32(details)
        if gpu_memory_fraction is None:
            memory = "growth"
            tf.config.experimental.set_memory_growth(gpu, True)
        else:
            limit = gpu_memory_fraction * gpu_memory(int(gpu.name.rpartition(":")[2])) / 2**20
            tf.config.set_logical_device_configuration(gpu, [tf.config.LogicalDeviceConfiguration(memory_limit=limit)])
            memory = f"{limit:.0f} MiB"
    build = tf.sysconfig.get_build_info()
    set_precision(precision, on_gpu=gpu is not None)
    if gpu is not None:
        require_working_gpu(device, xla, details, build)
    else:
        require_precision(precision)
    facts = {
        "device": "GPU" if gpu else "CPU",
        "device_name": name,
        "memory": memory,
        "threads": threads(),
        "environment": environment(ours=REWRITE_LISTS),
        "precision": precision if precision == "float32" else f"mixed {'float16' if gpu else 'bfloat16'}",
        "tf32": tf32,
        "xla": xla,
        "deterministic": deterministic,
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "cuda": build.get("cuda_version"),
            "cudnn": build.get("cudnn_version"),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
        },
    }
    return f"/{facts['device']}:0", facts
