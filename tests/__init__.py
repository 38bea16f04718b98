"""Tests mirror the package. One thread each, before torch is loaded: the same bits as the processes that they start."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
