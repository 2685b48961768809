"""What the seven experiments share: data, resize, session set-up, the run loop and its files."""

import os

# Before TensorFlow is imported: its start-up notices would bury the run's own lines.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
