"""The session: today's equivalent of the article's GPUOptions and ConfigProto."""

import contextlib
import ctypes
import os
from pathlib import Path
import platform
import shutil
import sys
import tempfile

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


with quiet_stderr():
    import tensorflow as tf

# What must stay float32 under --precision mixed: the loss (its bfloat16 grid near 2300 is 16) and the moments.
KEEP_FLOAT32 = "Softmax,Log,Sum,Mean,SquaredDifference"


def nvidia_present():
    """Whether the machine has an NVIDIA GPU, whatever TensorFlow makes of it."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def gpu_missing():
    """Why TensorFlow sees no GPU, and the mend, in one clause."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides every GPU; unset it"
    if nvidia_present():
        return "there is an NVIDIA GPU that TensorFlow cannot use; pip install -r requirements-gpu.txt"
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


def has_bfloat16():
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(processor("flags").split())


def check(args, gpu):
    """Raise UserError for flags that exclude each other, or that the device (a GPU, or None for the CPU) excludes."""
    if args.xla and args.precision == "mixed":
        raise UserError("--xla: does not see the graph rewrite of --precision mixed; leave one of the two out")
    if gpu is None and args.precision == "mixed" and not has_bfloat16():
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
    name, memory = processor("model name") or platform.machine(), None
    if gpu is None:
        tf.config.set_visible_devices([], "GPU")
    else:
        tf.config.set_visible_devices(gpu, "GPU")
        name = tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
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
        rewrite = "auto_mixed_precision" if gpu else "auto_mixed_precision_onednn_bfloat16"
        tf.config.optimizer.set_experimental_options({rewrite: True})

    build = tf.sysconfig.get_build_info()
    facts = {
        "device": "GPU" if gpu else "CPU",
        "device_name": name,
        "memory": memory,
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "precision": args.precision if args.precision == "float32" else f"mixed {'float16' if gpu else 'bfloat16'}",
        "tf32": bool(gpu) and not args.no_tf32,
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


def banner(facts, args):
    """What the run really uses, in at most four lines of at most 80 columns where the device's name allows."""
    versions = facts["versions"]
    lines = [
        f"TensorFlow {versions['tensorflow']} (built for CUDA {versions['cuda']}, cuDNN {versions['cudnn']}), "
        f"Python {versions['python']}",
        f"{facts['device']} {facts['device_name']}, "
        + (f"memory {facts['memory']}" if facts["memory"] else f"{facts['threads']} threads"),
        f"{facts['precision']}{', TF32' * facts['tf32']}{', XLA' * facts['xla']}"
        f"{', deterministic' * facts['deterministic']}, seed {args.seed}",
    ]
    if facts["device"] == "CPU" and args.device == "auto":
        mend = f" ({gpu_missing()})" if nvidia_present() else ""
        lines.append(f"No usable GPU{mend}: an epoch of 60,000 images takes about half an hour on 2 cores.")
    return "\n".join(lines)
