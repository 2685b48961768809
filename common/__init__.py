"""What the seven experiments share: data, resize, session set-up, the run loop and its files."""

import os
import sys

# Before TensorFlow is imported: its start-up notices would bury the run's own lines.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# A stream that was closed before the start (>&-): the next file to be opened would take its place.
for name, mode in {"stdin": "r", "stdout": "w", "stderr": "w"}.items():
    if getattr(sys, name) is None:
        setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def quiet_interrupt(kind, *details, show=sys.excepthook):
    """Ctrl-C before a run listens for it, while its imports last, is not worth a traceback."""
    if kind is not KeyboardInterrupt:
        show(kind, *details)


sys.excepthook = quiet_interrupt
