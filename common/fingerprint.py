"""The fingerprint of the code that decides a run's numbers: a run resumes only with the code it started with."""

import ast
import functools
import hashlib
import io
from pathlib import Path
import tokenize

from common.tensorflow import tf
import numpy as np

# The modules that decide the numbers of a run, given its script and data; the others may change.
COMPUTING = ("input", "lrn", "step")


@functools.cache
def strip_comments(text):
    """Python code without docstrings, comments and blank lines."""
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            for row in range(node.body[0].lineno, node.body[0].end_lineno + 1):
                lines[row - 1] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())


def code_fingerprint(script):
    """{file or library: digest or version} of everything that decides the numbers of a run of script."""
    files = {script.name: script, **{f"common/{name}.py": Path(__file__).with_name(f"{name}.py") for name in COMPUTING}}
    codes = {name: strip_comments(path.read_text("utf-8")).encode() for name, path in files.items()}
    digests = {name: hashlib.sha256(code).hexdigest()[:12] for name, code in codes.items()}
    return {**digests, "TensorFlow": tf.__version__, "NumPy": np.__version__}
