"""The commit that a run's record names."""

import os
from pathlib import Path
import subprocess

VARIABLE = "ALEXNET_COMMIT"  # set by the study for its nodes, which have the code without git


def git_commit():
    """The commit of this checkout, with + where tracked files differ from it; None outside git.

    Also None if this code lies in another repository, as an archive unpacked there does.
    """
    if VARIABLE in os.environ:
        return os.environ[VARIABLE] or None
    here = Path(__file__).parent
    try:
        head, changed = (
            subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
            for command in (["rev-parse", "HEAD", "--show-prefix"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    commit, _, prefix = head.partition("\n")
    return commit + "+" * bool(changed) if prefix == f"{here.name}/" else None
