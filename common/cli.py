"""Command-line manners: bad input costs one line on stderr and exit code 2."""

import argparse
import contextlib
import os
from pathlib import Path
import sys


class UserError(Exception):
    """Bad input; the message names the file or flag, what is wrong with it and the mend."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, without the usage text."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


@contextlib.contextmanager
def user_errors():
    """Turn a UserError, or an OSError that nobody caught, into one line on stderr and exit code 2."""
    try:
        yield
    except UserError as error:
        message = str(error)
    except BrokenPipeError:  # the reader has gone, as in python plot_results.py | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}; make it writable, make room, or name another folder"
    else:
        return
    print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)
    sys.exit(2)
