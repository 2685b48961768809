"""What the seven experiments share: data, resize, session set-up, the run loop and its files."""

import os
import sys

if sys.platform == "win32":  # before an import of something that Windows lacks fails
    name = os.path.basename(sys.argv[0])
    print(f"{name}: error: Windows is not supported; run this in WSL2 (wsl --install)", file=sys.stderr)
    raise SystemExit(2)

# Before TensorFlow is imported: its start-up notices would bury the run's own output.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# A stream that was closed before the start (>&-): the next file to be opened would take its place.
for name, mode in {"stdin": "r", "stdout": "w", "stderr": "w"}.items():
    if getattr(sys, name) is None:
        setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115

# A character that the output's encoding lacks must not end a run. A notebook's stdout takes them all.
if hasattr(sys.stdout, "reconfigure"):
    sys.stdout.reconfigure(errors="backslashreplace")

# The backend that a notebook's cells pass on to their commands; Matplotlib refuses it where the notebook's packages are
# not installed.
if os.environ.get("MPLBACKEND", "").startswith("module:") and "ipykernel" not in sys.modules:
    del os.environ["MPLBACKEND"]


def quiet_interrupt(kind, *details, show=sys.excepthook):
    """Print no traceback for a Ctrl-C during the imports, before a run handles it."""
    if kind is not KeyboardInterrupt:
        show(kind, *details)


sys.excepthook = quiet_interrupt
