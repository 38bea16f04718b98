"""A host program of the package's: what is its own, and whether importing every module leaves it alone."""

import atexit
import importlib
import locale
import logging
import multiprocessing
import os
import pkgutil
import random
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any


def state() -> dict[str, Any]:
    """Return what a library must not change for the program that imports it, of the libraries that are there."""
    import cv2
    import jsonargparse
    import matplotlib as mpl
    import numpy as np
    import torch
    import yaml

    loggers = {None: logging.root, **logging.root.manager.loggerDict}
    yamls = (yaml.SafeDumper, yaml.Dumper, yaml.SafeLoader, yaml.Loader, yaml.FullLoader)
    return {
        "environment": dict(os.environ),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "warnings": list(warnings.filters),
        "logging": {
            name: (logger.level, logger.propagate, logger.disabled, list(logger.handlers))
            for name, logger in loggers.items()
            # What a library only names its messages by is there when it is imported.
            if isinstance(logger, logging.Logger) and (logger.level or logger.handlers)
        },
        "threads": threading.enumerate(),
        "children": multiprocessing.active_children(),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "at exit": atexit._ncallbacks(),
        "random": (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()),
        "locale": locale.setlocale(locale.LC_ALL),
        "streams": (sys.stdin, sys.stdout, sys.stderr, sys.excepthook, sys.displayhook, threading.excepthook),
        "path": list(sys.path),
        "folder": Path.cwd(),
        "torch": (
            torch.get_num_threads(),
            torch.get_num_interop_threads(),
            torch.get_default_dtype(),
            torch.get_float32_matmul_precision(),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
        ),
        "numpy": (np.geterr(), np.get_printoptions()),
        "opencv": cv2.getNumThreads(),
        "matplotlib": {name: mpl.rcParams[name] for name in mpl.rcParams if name != "backend"},  # which a look chooses
        "yaml": [
            (dict(getattr(kind, "yaml_representers", {})), dict(getattr(kind, "yaml_constructors", {})))
            for kind in yamls
        ],
        "jsonargparse": [jsonargparse.get_loader(mode) for mode in ("yaml", "json")],
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return what two states differ in, as it was and as it is."""
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}


def _work(imported: Any, done: Path) -> None:
    imported.wait()
    time.sleep(0.5)  # the host is leaving
    done.write_text("done")


def main(done: Path, libraries: list[str]) -> None:
    """Import the libraries, which may do as they please, and then every module of the package."""
    for name in libraries:
        importlib.import_module(name)
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    warnings.filterwarnings("error", message="the host's own")
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    imported = multiprocessing.Event()
    multiprocessing.Process(target=_work, args=(imported, done)).start()
    before = state()
    import reslightning

    for module in pkgutil.walk_packages(reslightning.__path__, "reslightning."):
        importlib.import_module(module.name)
    for name in reslightning.__all__:
        getattr(reslightning, name)
    print(changed(before, state()))
    imported.set()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
