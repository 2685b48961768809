"""Curves, pictures and tables of finished and running experiments. Nothing here imports TensorFlow."""
