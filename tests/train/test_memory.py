"""Memory that a step frees is there for the next one, without the kernel."""

import platform
import subprocess
import sys

import pytest

from reslightning.train import segment
from tests.conftest import SMALL

STEPS = """
import resource, sys
from reslightning.train.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def step():
    block = bytearray(100 << 20)  # more than glibc ever keeps by itself
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_what_is_freed_is_not_asked_for_again():
    of_system, kept = (
        int(subprocess.run([sys.executable, "-c", STEPS, way], capture_output=True, check=True, text=True).stdout)
        for way in ("as it is", "kept")
    )
    assert kept < of_system / 4


def test_a_training_on_cpus_asks_for_it(cli, monkeypatch):
    asked = []
    monkeypatch.setattr(segment, "keep_freed_memory", lambda: asked.append(True))
    assert cli(f"fit {SMALL} --trainer.max_epochs 1").status == 0
    assert asked
