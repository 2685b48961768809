"""What this machine is: its processor, its NVIDIA GPU, and the environment variables that may change a run's digits."""

import contextlib
import ctypes
import os
from pathlib import Path
import platform
import re

from common.cli import UserError

# Environment variables that may change the digits that TensorFlow and its libraries compute.
DIGITS = re.compile(
    r"TF_(AUTO_MIXED_PRECISION|AUTOTUNE|CONV2D|CUBLAS|CUDNN|DETERMINISTIC|DISABLE|ENABLE|FP16|MATMUL|NUM_INT|ONEDNN"
    r"|OVERRIDE|SET_ONEDNN|USE|XLA)\w*|XLA_FLAGS|(CUBLAS|CUDNN|DNNL|ONEDNN)_\w+|NVIDIA_TF32_OVERRIDE"
)
DEV, DRIVER = Path("/dev"), Path("/proc/driver/nvidia/version")


def nvidia_present():
    """Whether the machine has an NVIDIA GPU, even one that TensorFlow cannot use; dxg is WSL2's device."""
    return any(DEV.glob("nvidia[0-9]*")) or (DEV / "dxg").exists()


def gpu_missing():
    """Why TensorFlow sees no GPU, and the fix, in one clause."""
    visible, count = os.environ.get("CUDA_VISIBLE_DEVICES"), len(list(DEV.glob("nvidia[0-9]*")))
    if visible == "NoDevFiles":
        return "Slurm gave this job no GPU (CUDA_VISIBLE_DEVICES=NoDevFiles); ask for one (--gres=gpu:1)"
    # CUDA sees the GPUs before the first that does not exist: a number from 0, or a UUID.
    first = (visible or "").partition(",")[0].strip()
    number = int(first) if first.isdecimal() else None
    if visible is not None and not first.startswith(("GPU-", "MIG-")) and (number is None or 0 < count <= number):
        return f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU; unset it"
    version = re.search(r"\d+\.\d+[.\d]*", DRIVER.read_text()) if DRIVER.exists() else None
    driver = f"driver {version[0]}" if version else "no driver"
    if nvidia_present():
        also = "" if visible is None else f", and check that CUDA_VISIBLE_DEVICES={visible} names it"
        fix = f"pip install -r requirements-gpu.txt{also}"
        return f"there is an NVIDIA GPU ({driver}) that TensorFlow cannot use; {fix}"
    if version:
        return f"NVIDIA's {driver} is here but no GPU device; give it to this container (docker run --gpus all)"
    return "this machine has no NVIDIA driver; install one, then pip install -r requirements-gpu.txt"


def processor(fact):
    """What Linux says of the CPU ("model name", "flags"), or "" where it says nothing."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == fact:
                return value.strip()
    return ""


def gpu_memory(number):
    """Total bytes of CUDA device number, from the driver: TensorFlow has no call for it before the GPU is in use."""
    cuda, device, size = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_size_t()
    failed = cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), number)
    if failed or cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device):
        raise UserError("--gpu-memory-fraction: the CUDA driver does not report the GPU's memory; leave the flag out")
    return size.value


def has_tf32(details):
    """Whether a GPU with these details (TensorFlow's get_device_details) multiplies in TF32: Ampere and newer."""
    return details.get("compute_capability", (0, 0)) >= (8, 0)


def bfloat16():
    """How the CPU multiplies bfloat16: "amx_bf16" (matrix units), "avx512_bf16", or "" if it does not."""
    return next((kind for kind in ("amx_bf16", "avx512_bf16") if kind in processor("flags").split()), "")


def cpu_name():
    """The CPU's name, with its generation: many are sold, and rented, under one name."""
    generation = " ".join(f"{fact.removeprefix('cpu ')} {processor(fact)}" for fact in ("cpu family", "model"))
    parts = [processor("model name") or platform.machine(), generation * bool(processor("cpu family")), bfloat16()]
    return ", ".join(filter(None, parts))


def threads():
    """How many threads TensorFlow uses for one operation."""
    given = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return int(given) if re.fullmatch(r" *0*[1-9]\d* *", given) else available


def environment(ours=()):
    """{name: value} of the environment variables that may change a run's digits, except for ours, the session's."""
    return {name: value for name, value in sorted(os.environ.items()) if DIGITS.fullmatch(name) and name not in ours}
