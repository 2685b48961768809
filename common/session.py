"""The session: today's equivalent of the article's GPUOptions and ConfigProto."""

import contextlib
import ctypes
import os
from pathlib import Path
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

from common.cli import UserError, user_errors
import cv2
import numpy as np


@contextlib.contextmanager
def quiet_stderr():
    """Hold back what native code writes to stderr, and drop it if the block succeeds.

    TensorFlow 2.21 prints notices at import before it reads its own log level. Another process holds the text: it
    prints it also if native code ends this one. Yields a function that drops it. TF_CPP_MIN_LOG_LEVEL=0 shows all.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0" or not shutil.which("tail"):
        yield lambda: None
        return
    sys.stderr.flush()
    saved = os.dup(2)
    with subprocess.Popen(["tail", "-n", "200"], stdin=subprocess.PIPE, stdout=saved) as holder:
        os.dup2(holder.stdin.fileno(), 2)
        try:
            yield holder.kill
            holder.kill()
        finally:
            os.dup2(saved, 2)
            os.close(saved)


@contextlib.contextmanager
def quitting_on_interrupt(cleanup):
    """Let Ctrl-C end the process at once with exit code 130: an import that it breaks off complains for pages."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupted(*_):
        cleanup()
        os._exit(130)

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def processor(fact):
    """What Linux says of the CPU ("model name", "flags"), or "" where it says nothing."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == fact:
                return value.strip()
    return ""


def need_avx():
    """Raise UserError on a CPU that TensorFlow's wheels are not built for: importing one ends in SIGILL."""
    flags = processor("flags").split()
    if platform.machine() == "x86_64" and flags and "avx" not in flags:
        raise UserError("this processor, or virtual machine, has no AVX, which TensorFlow needs; use another")


def name_temporary_folder():
    """Name one where none can be written to (docker --read-only): TensorFlow asks for one when it is imported."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        tempfile.tempdir = os.curdir


with user_errors():
    need_avx()
name_temporary_folder()
with quiet_stderr() as drop, quitting_on_interrupt(drop):
    import tensorflow as tf

# The graph rewrite of --precision mixed on a CPU.
BFLOAT16 = "auto_mixed_precision_onednn_bfloat16"
# What must stay float32 under --precision mixed: the loss (its bfloat16 grid near 2300 is 16) and the moments.
KEEP_FLOAT32 = "Softmax,Log,Sum,Mean,SquaredDifference"
# Both: the second alone silently leaves the whole graph in float32.
REWRITE_LISTS = {
    f"TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_{name}": KEEP_FLOAT32 for name in ("INFERLIST_REMOVE", "DENYLIST_ADD")
}
MEMORY = "wait for what else runs on it (nvidia-smi tells), or choose another --device"
# Environment variables by which TensorFlow and its libraries may compute other digits.
DIGITS = re.compile(
    r"TF_(AUTO_MIXED_PRECISION|AUTOTUNE|CONV2D|CUBLAS|CUDNN|DETERMINISTIC|DISABLE|ENABLE|FP16|MATMUL|NUM_INT|ONEDNN"
    r"|OVERRIDE|SET_ONEDNN|USE|XLA)\w*|XLA_FLAGS|(CUBLAS|CUDNN|DNNL|ONEDNN)_\w+|NVIDIA_TF32_OVERRIDE"
)


DEV, DRIVER = Path("/dev"), Path("/proc/driver/nvidia/version")


def nvidia_present():
    """Whether the machine has an NVIDIA GPU, whatever TensorFlow makes of it; dxg is that of Windows' Linux."""
    return any(DEV.glob("nvidia[0-9]*")) or (DEV / "dxg").exists()


def gpu_missing():
    """Why TensorFlow sees no GPU, and the mend, in one clause."""
    visible, count = os.environ.get("CUDA_VISIBLE_DEVICES"), len(list(DEV.glob("nvidia[0-9]*")))
    if visible == "NoDevFiles":
        return "Slurm gave this job no GPU (CUDA_VISIBLE_DEVICES=NoDevFiles); ask for one (--gres=gpu:1)"
    # CUDA sees the GPUs up to the first that is not there: a number from 0, or a UUID.
    first = (visible or "").partition(",")[0].strip()
    number = int(first) if first.isdecimal() else None
    if visible is not None and not first.startswith(("GPU-", "MIG-")) and (number is None or 0 < count <= number):
        return f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU; unset it"
    version = re.search(r"\d+\.\d+[.\d]*", DRIVER.read_text()) if DRIVER.exists() else None
    driver = f"driver {version[0]}" if version else "no driver"
    if nvidia_present():
        also = "" if visible is None else f", and see whether CUDA_VISIBLE_DEVICES={visible} names it"
        mend = f"pip install -r requirements-gpu.txt{also}"
        return f"there is an NVIDIA GPU ({driver}) that TensorFlow cannot use; {mend}"
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


def has_tf32(details):
    """Whether a GPU with these details (TensorFlow's get_device_details) multiplies in TF32: Ampere and newer."""
    return details.get("compute_capability", (0, 0)) >= (8, 0)


def bfloat16():
    """How the CPU multiplies bfloat16: "amx_bf16" (matrix units), "avx512_bf16", or "" if it does not."""
    return next((kind for kind in ("amx_bf16", "avx512_bf16") if kind in processor("flags").split()), "")


def need_precision(wanted):
    """Raise UserError unless a compiled product rounds to bfloat16 on the CPU if mixed is wanted, and only then.

    Without oneDNN the graph rewrite of --precision mixed has no effect, and TensorFlow says nothing.
    """
    nearly_one = tf.fill([8, 8], 1 + 2.0**-12)  # in bfloat16 it is 1; an argument, as constants are folded in float32
    rounds = bool(np.all(tf.function(lambda factor: factor @ factor, autograph=False)(nearly_one) == 8))
    if rounds and wanted == "float32":
        raise UserError("--precision float32: TensorFlow rounds to bfloat16 here; unset TF_SET_ONEDNN_FPMATH_MODE")
    if not rounds and wanted == "mixed":
        mend = "set TF_ENABLE_ONEDNN_OPTS=1, or use --precision float32"
        raise UserError(f"--precision mixed: TensorFlow does not round to bfloat16 here; {mend}")


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


def need_working_gpu(args, details, build):
    """Raise UserError if the GPU, which TensorFlow lists, does not work; details and build are TensorFlow's of both."""
    failure = first_failure("/GPU:0", args.xla)
    if failure is None:
        return
    operation, error = failure
    reason = re.sub(r"\{\{.*?\}\} ?| \[Op:.*", "", str(error).strip().partition("\n")[0])
    card = details.get("device_name", "the GPU")
    if isinstance(error, tf.errors.ResourceExhaustedError) or "out of memory" in str(error).lower():
        raise UserError(f"--device {args.device}: {card} has no memory left ({reason}); {MEMORY}")
    capability = ".".join(map(str, details.get("compute_capability", ("unknown",))))
    made_for = f"CUDA {build.get('cuda_version')}, cuDNN {build.get('cudnn_version')}"
    made_for += f", {' '.join(build.get('cuda_compute_capabilities', []))}"
    raise UserError(
        f"--device {args.device}: {operation} fails on {card}, compute capability {capability} ({reason}); TensorFlow "
        f"{tf.__version__} was built for {made_for}: take --device cpu, pip install -r requirements-gpu.txt, or, for "
        "a newer card, NVIDIA's TensorFlow container"
    )


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


def threads():
    """How many threads TensorFlow spreads an operation over."""
    given = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return int(given) if re.fullmatch(r" *0*[1-9]\d* *", given) else available


def environment():
    """Those variables of the environment, {name: value}, that may change the digits of a run."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if DIGITS.fullmatch(name) and name not in REWRITE_LISTS
    }


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
    mixed, build = args.precision == "mixed", tf.sysconfig.get_build_info()
    os.environ.update(REWRITE_LISTS if mixed else {})
    # False as well: an earlier run in this process may have set it, and common.lrn reads it.
    rewrites = {"auto_mixed_precision": mixed and gpu is not None, BFLOAT16: mixed and gpu is None}
    tf.config.optimizer.set_experimental_options(rewrites)
    if gpu is not None:
        need_working_gpu(args, details, build)
    else:
        need_precision(args.precision)
    facts = {
        "device": "GPU" if gpu else "CPU",
        "device_name": name,
        "memory": memory,
        "threads": threads(),
        "environment": environment(),
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
