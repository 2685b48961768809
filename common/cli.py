"""Command-line conventions: bad input ends with one line on stderr and exit code 2, a signal asks a run to stop."""

import argparse
import contextlib
import os
from pathlib import Path
import re
import runpy
import shutil
import signal
import sys
import textwrap
import traceback

from tqdm import tqdm

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # those that ask a run to stop
STOPPING = "saving and stopping after this step, which can take a minute; Ctrl-C again quits at once"


class UserError(Exception):
    """Bad input; the message names the file or flag, what is wrong with it and the fix."""


def wrap_docstring(docstring):
    """A docstring wrapped to the terminal, each field and command on a line of its own, with hanging indents."""
    width = shutil.get_terminal_size().columns - 2
    lines = []
    for paragraph in docstring.strip().split("\n\n"):
        listing = re.search(r"^(\w+: |python )", paragraph, re.MULTILINE)
        for line in paragraph.splitlines() if listing else [" ".join(paragraph.split())]:
            field = re.match(r"\w+: +|python .*?  +", line)
            lines += textwrap.wrap(line, width, subsequent_indent=" " * len(field[0] if field else ""))
        lines.append("")
    return "\n".join(lines)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that shows a docstring in --help, and whose errors are one line, without the usage text."""

    def __init__(self, docstring, **given):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(description=wrap_docstring(docstring), formatter_class=formatter, **given)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def say(text):
    """Print text above the progress bar, if any; print nothing if stdout is gone (a closed terminal, a broken pipe)."""
    try:
        tqdm.write(text)
        sys.stdout.flush()
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def no_bar():
    """The value of tqdm's disable: True if TQDM_DISABLE is set, else None, a bar on a terminal only."""
    return os.environ.get("TQDM_DISABLE", "") not in ("", "0") or None


def on_signals(handler):
    """Install handler(number, frame) for Ctrl-C, SIGTERM and SIGHUP; returns {number: previous handler}."""
    ignored = [number for number in SIGNALS[1:] if signal.getsignal(number) == signal.SIG_IGN]  # nohup: SIGHUP
    return {number: signal.signal(number, handler) for number in SIGNALS if number not in ignored}


class Stop:
    """While its block runs, Ctrl-C, SIGTERM and SIGHUP ask the loop to save and stop, however often they come.

    Only a second Ctrl-C quits without saving. Python handles a signal once the step that is being computed returns.
    """

    def __enter__(self):
        self.signal = None
        self.previous = on_signals(self.ask)
        return self

    def ask(self, number, _):
        if self.signal is None:
            self.signal = number
            with contextlib.suppress(OSError):
                print(f"\n{STOPPING}", file=sys.stderr, flush=True)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *_):
        for number, handler in self.previous.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: not set by Python


@contextlib.contextmanager
def user_errors():
    """Turn a UserError, or an uncaught OSError, into one line on stderr and exit code 2."""
    try:
        yield
    except UserError as error:
        message = str(error)
    except BrokenPipeError:  # the reader is gone, as in python plot_results.py | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        where = f"{error.filename}: " * bool(error.filename)
        message = f"{where}{error.strerror or error}; make it writable, make room, or name another folder"
    else:
        return
    print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)
    raise SystemExit(2) from UserError(message)


def run_script(script, flags):
    """Run a script in this process, as Python would; returns its exit code and why it failed, or None."""
    sys.argv = [str(script), *flags]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        return end.code or 0, end.__cause__ and str(end.__cause__)
    except Exception as error:
        traceback.print_exc()
        return 1, f"{type(error).__name__}: {error}"
    return 0, None
