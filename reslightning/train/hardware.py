"""What a machine has for options that ask for it: a compiler, and arithmetic of low precision; without torch."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import sysconfig
from pathlib import Path

from reslightning.errors import UserError

CPUS = Path("/proc/cpuinfo")
# What that calls instructions that multiply in a precision, on x86 and ARM.
BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
FLOAT16 = frozenset({"avx512_fp16", "amx_fp16", "asimdhp"})
# By precision: what multiplies in it, and how long a step takes without, measured with ResNet-18 and 20.
LOW = {
    "bf16": (
        "bfloat16 arithmetic (avx512_bf16 or amx_bf16)",
        BFLOAT16,
        {"avx512f": "half as long again as", "avx2": "about ten times as long as"},
    ),
    "16": ("float16 arithmetic (avx512_fp16)", FLOAT16, {"avx2": "about fifteen times as long as"}),
}


def missing_compiler(device: str) -> str | None:
    """Return what torch.compile lacks on this machine, and where it is to be had; None where it has all.

    Args:
        device: cpu, for which it writes C++ (torch._inductor), or cuda, for which Triton builds its launchers in C.
    """
    variable, names, language = ("CC", ["gcc", "clang"], "C") if device == "cuda" else ("CXX", ["g++"], "C++")
    if sys.platform == "darwin" and device != "cuda":
        names = ["clang++"]
    if named := os.environ.get(variable, "").split():
        names = [named[0]]
    if not any(map(shutil.which, names)):
        given = f", which {variable} names," if named else ""
        return (
            f"a {language} compiler, and there is no {' or '.join(names)}{given} on the PATH: install it (of Debian "
            f"the package {'gcc' if device == 'cuda' else 'g++'}; on a cluster perhaps `module load gcc`), or name one "
            f"by {variable}"
        )
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Python's headers, and there is no Python.h: install them (of Debian's Python the package python3-dev)"
    return None


def check_compiler(device: str) -> None:
    """Raise UserError where torch.compile could not compile for a device."""
    if missing := missing_compiler(device):
        raise UserError(f"model.compile needs {missing}\nOr leave model.compile out.")


def has(instructions: frozenset[str]) -> bool | None:
    """Whether this machine's CPUs have one of these instructions; None where the system does not say."""
    named = _told("flags", "Features")
    return None if named is None else bool(instructions & {*named.split()})


def processor() -> str:
    """Return what the system calls this machine's CPUs."""
    return _told("model name") or platform.processor() or platform.machine()


def _told(*names: str) -> str | None:
    """Return what the system tells of the first CPU by one of these names; None where it does not."""
    try:
        lines = CPUS.read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(names)), None)


def emulated(precision: str, device: str) -> str | None:
    """Return what a precision costs that a device only emulates; None where it does not, or does not say.

    Args:
        precision: the Trainer's: bf16-mixed, say.
        device: cpu or cuda.
    """
    low = precision.partition("-")[0]
    if device == "cpu" and low in LOW:
        name, instructions, costs = LOW[low]
        if has(instructions) is not False:
            return None
        taken = next((words for own, words in costs.items() if has(frozenset({own}))), "longer than")
        return f"these CPUs have no {name}, and what emulates it takes {taken} 32-true"
    if device == "cuda" and low == "bf16":
        import torch

        if not torch.cuda.is_bf16_supported(including_emulation=False):
            return (
                f"{torch.cuda.get_device_name()} has no bfloat16 arithmetic (GPUs of compute capability 8.0 or more "
                "have), and what emulates it is slower than 32-true; 16-mixed is not"
            )
    return None
