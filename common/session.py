"""The session: today's equivalent of the article's GPUOptions and ConfigProto."""

import contextlib
import ctypes
import os
from pathlib import Path
import platform
import re
import signal
import sys
import tempfile
import threading

from common.cli import UserError
import cv2
import numpy as np


@contextlib.contextmanager
def quiet_stderr():
    """Keep what native code writes to stderr; replay it only if the block fails, or if TF_CPP_MIN_LOG_LEVEL is 0.

    TensorFlow 2.21 prints notices at import before it reads its own log level.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0":
        yield
        return
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(saved, kept.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


@contextlib.contextmanager
def quitting_on_interrupt():
    """Let Ctrl-C end the process at once with exit code 130: an import that it breaks off complains for pages."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


with quiet_stderr(), quitting_on_interrupt():
    import tensorflow as tf

# What must stay float32 under --precision mixed: the loss (its bfloat16 grid near 2300 is 16) and the moments.
KEEP_FLOAT32 = "Softmax,Log,Sum,Mean,SquaredDifference"
# The graph rewrite of --precision mixed on a CPU.
BFLOAT16 = "auto_mixed_precision_onednn_bfloat16"


DEV, DRIVER = Path("/dev"), Path("/proc/driver/nvidia/version")


def nvidia_present():
    """Whether the machine has an NVIDIA GPU, whatever TensorFlow makes of it; dxg is that of Windows' Linux."""
    return any(DEV.glob("nvidia[0-9]*")) or (DEV / "dxg").exists()


def gpu_missing():
    """Why TensorFlow sees no GPU, and the mend, in one clause."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides every GPU; unset it"
    version = re.search(r"\d+\.\d+[.\d]*", DRIVER.read_text()) if DRIVER.exists() else None
    driver = f"driver {version[0]}" if version else "no driver"
    if nvidia_present():
        return f"there is an NVIDIA GPU ({driver}) that TensorFlow cannot use; pip install -r requirements-gpu.txt"
    if version:
        return f"NVIDIA's {driver} is here but no GPU device; give it to this container (docker run --gpus all)"
    return "this machine has no NVIDIA driver; install one, then pip install -r requirements-gpu.txt"


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


def gpu_memory(number):
    """Total bytes of CUDA device number, from the driver: TensorFlow has no call for it before the GPU is in use."""
    cuda, device, size = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_size_t()
    failed = cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), number)
    if failed or cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device):
        raise UserError("--gpu-memory-fraction: the CUDA driver does not tell the GPU's memory; leave the flag out")
    return size.value


def processor(fact):
    """What Linux says of the CPU ("model name", "flags"), or "" where it says nothing."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == fact:
                return value.strip()
    return ""


def has_tf32(details):
    """Whether a GPU with these details (TensorFlow's get_device_details) multiplies in TF32: Ampere and newer."""
    return details.get("compute_capability", (0, 0)) >= (8, 0)


def bfloat16():
    """How the CPU multiplies bfloat16: "amx_bf16" (matrix units), "avx512_bf16", or "" if it does not."""
    return next((kind for kind in ("amx_bf16", "avx512_bf16") if kind in processor("flags").split()), "")


def cpu_name():
    """The CPU's name, with what tells its generation: many are sold, and lent, under one name."""
    generation = " ".join(f"{fact.removeprefix('cpu ')} {processor(fact)}" for fact in ("cpu family", "model"))
    parts = [processor("model name") or platform.machine(), generation * bool(processor("cpu family")), bfloat16()]
    return ", ".join(filter(None, parts))


def check(args, gpu):
    """Raise UserError for flags that exclude each other, or that the device (a GPU, or None for the CPU) excludes."""
    if args.xla and args.precision == "mixed":
        raise UserError("--xla: does not see the graph rewrite of --precision mixed; leave one of the two out")
    if gpu is None and args.precision == "mixed" and not bfloat16():
        raise UserError("--precision mixed: this processor has no bfloat16 arithmetic; use --precision float32")
    if gpu is None and args.gpu_memory_fraction is not None:
        raise UserError("--gpu-memory-fraction: there is no GPU in this run; leave the flag out")
    if gpu is not None and args.xla and args.deterministic:
        raise UserError("--xla: has no deterministic max-pool gradient on a GPU; leave out --deterministic")


def open_session(args):
    """Set TensorFlow up as the flags say, before its first operation; returns (device string, facts for the record).

    Raises UserError for a device that is not there and for flags that exclude each other.
    """
    gpu = choose_gpu(args.device)
    check(args, gpu)
    tf.config.set_soft_device_placement(True)
    tf.debugging.set_log_device_placement(args.log_device_placement)
    tf.config.experimental.enable_tensor_float_32_execution(not args.no_tf32)
    tf.random.set_seed(args.seed)
    if args.deterministic:
        tf.config.experimental.enable_op_determinism()
    name, memory, tf32 = cpu_name(), None, False
    if gpu is None:
        tf.config.set_visible_devices([], "GPU")
    else:
        tf.config.set_visible_devices(gpu, "GPU")
        details = tf.config.experimental.get_device_details(gpu)
        name = details.get("device_name", gpu.name)
        tf32 = not args.no_tf32 and has_tf32(details)
        if args.gpu_memory_fraction is None:
            memory = "growth"
            tf.config.experimental.set_memory_growth(gpu, True)
        else:
            limit = args.gpu_memory_fraction * gpu_memory(int(gpu.name.rpartition(":")[2])) / 2**20
            tf.config.set_logical_device_configuration(gpu, [tf.config.LogicalDeviceConfiguration(memory_limit=limit)])
            memory = f"{limit:.0f} MiB"
    if args.precision == "mixed":
        # Both: the second alone silently leaves the whole graph in float32.
        os.environ["TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_INFERLIST_REMOVE"] = KEEP_FLOAT32
        os.environ["TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_DENYLIST_ADD"] = KEEP_FLOAT32
        rewrite = "auto_mixed_precision" if gpu else BFLOAT16
        tf.config.optimizer.set_experimental_options({rewrite: True})

    build = tf.sysconfig.get_build_info()
    facts = {
        "device": "GPU" if gpu else "CPU",
        "device_name": name,
        "memory": memory,
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "precision": args.precision if args.precision == "float32" else f"mixed {'float16' if gpu else 'bfloat16'}",
        "tf32": tf32,
        "xla": args.xla,
        "deterministic": args.deterministic,
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
