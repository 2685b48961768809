"""TensorFlow, imported without its start-up notices: from common.tensorflow import tf."""

import contextlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

from common.cli import UserError, user_errors
from common.machine import processor


@contextlib.contextmanager
def quiet_stderr():
    """Hold back what native code writes to stderr, and drop it if the block succeeds.

    TensorFlow 2.21 prints notices at import before it reads its own log level. Another process holds the text, and
    prints it even if native code ends this one. Yields a function that drops it. TF_CPP_MIN_LOG_LEVEL=0 shows all.
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
    """Let Ctrl-C end the process at once with exit code 130: an interrupted import prints pages of errors."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupted(*_):
        cleanup()
        os._exit(130)

    previous = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def require_avx():
    """Raise UserError on a CPU that TensorFlow's wheels are not built for: importing one ends in SIGILL."""
    flags = processor("flags").split()
    if platform.machine() == "x86_64" and flags and "avx" not in flags:
        raise UserError("this processor, or virtual machine, has no AVX, which TensorFlow needs; use another")


def name_temporary_folder():
    """Name a temporary folder where none is writable (docker --read-only): TensorFlow asks for one at import."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        tempfile.tempdir = os.curdir


with user_errors():
    require_avx()
name_temporary_folder()
with quiet_stderr() as drop, quitting_on_interrupt(drop):
    import tensorflow as tf  # noqa: F401
