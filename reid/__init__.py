"""Person re-identification with ranked list loss: composed by Hydra, tracked by MLflow."""

import os

# Before PyTorch loads its OpenMP. Threads that wait for each other look so many times and then sleep; by
# default 15 times as many, and where other programs keep the cores busy they hardly do anything else.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
