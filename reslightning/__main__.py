"""The command table; a command's own module is imported only when it is called."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

from reslightning import __version__
from reslightning.cli.showing import shows
from reslightning.cluster.allocation import check_numbers, first_task, job_id
from reslightning.cluster.requeue import REQUEUE_SIGNALS, give_up
from reslightning.errors import (
    FULL,
    SIGNALS,
    Assumed,
    LostProcessError,
    TrainingError,
    UserError,
    meaning,
    near_misses,
    stop_at_once,
    stop_later,
)
from reslightning.files import printable

COMMANDS = {
    "fit": ("reslightning.commands.train", "train a network, or continue a training that was stopped"),
    "validate": ("reslightning.commands.train", "evaluate weights on the validation images"),
    "test": ("reslightning.commands.train", "evaluate weights on the test images"),
    "predict": (
        "reslightning.commands.predict",
        "say what pictures show, or what every test image does",
    ),
    "ensemble": (
        "reslightning.commands.ensemble",
        "average the probabilities of several networks, beside each of them",
    ),
    "average": ("reslightning.commands.average", "average the weights of several checkpoints into one network"),
    "export": ("reslightning.commands.export", "write a network as safetensors, state dict, ONNX or torch.export"),
    "models": ("reslightning.commands.models", "list the networks, what they cost and what was published"),
    "fetch": ("reslightning.commands.fetch", "download data sets and weights for machines without internet"),
    "compare": ("reslightning.commands.compare", "tables, curves and a page from runs, beside published results"),
    "analyze": (
        "reslightning.commands.analyze",
        "look inside networks: gradients, responses, lesions, and priors of depth",
    ),
    "sync": ("reslightning.commands.sync", "upload runs that were recorded offline"),
    "pack": ("reslightning.commands.pack", "put image files into a few indexed tars, resized if asked"),
    "submit": ("reslightning.commands.submit", "queue trainings on Slurm, or a grid of them"),
    "study": ("reslightning.commands.study", "run an experiment of the lecture's, and say whether its claim holds"),
    "doctor": ("reslightning.commands.doctor", "check this machine or job before time is spent"),
    "bench": ("reslightning.commands.bench", "measure the data loader or training against the plain way"),
}

# Seconds in which a mistake that all of a job's tasks find is said by the first, and ends the others; imports on
# another node may take so much longer.
LEADER_FIRST = 30.0


class Unread:
    """A stream whose reader, `head` or a terminal, may go away: what is done goes on without it."""

    def __init__(self, stream: Any, *, asked_for: bool) -> None:
        self._asked_for = asked_for  # whether it is a mistake where what is written is lost
        self._stream = io.StringIO() if stream is None else stream  # closed from the start

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, as long as somebody reads, what the stream's encoding has no letters for as escapes."""
        try:
            return int(self._stream.write(text))
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            self._drop(error)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, as long as somebody reads."""
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        if error.errno not in (errno.EPIPE, errno.EIO, *FULL):
            raise error
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        if error.errno in FULL and self._asked_for:
            raise error


def usage() -> str:
    """Return the text of --help."""
    rows = "\n".join(f"  {name:10} {text}" for name, (_, text) in COMMANDS.items())
    return (
        "usage: reslightning COMMAND [OPTIONS]\n\n"
        f"Residual networks, trained with Lightning (reslightning {__version__}).\n\n{rows}\n\n"
        "  reslightning fit                  train ResNet-20 on the embedded digits\n"
        "  reslightning fit -c cifar10       the paper's CIFAR-10 recipe\n"
        "  reslightning COMMAND --help       a command's options\n"
    )


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit status."""
    streams, words = (sys.stdout, sys.stderr), sys.argv[1:] if argv is None else argv
    asked_for = words[:1] != ["fit"] or shows(words)  # what a training finds is in its run
    sys.stdout, sys.stderr = Unread(sys.stdout, asked_for=asked_for), Unread(sys.stderr, asked_for=False)
    try:
        try:
            with _lines_of_warnings():
                return _run(words)
        finally:
            sys.stdout.flush()  # help leaves by SystemExit
    except Exception as error:
        chain = [error]
        while isinstance(cause := chain[-1].__cause__, Exception):
            chain.append(cause)  # jsonargparse makes others of what a constructor raises
        if (meant := next(filter(None, (meaning(one, words) for one in chain)), None)) is None:
            raise
        return _mistake(meant)
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        sys.stdout, sys.stderr = streams


@contextlib.contextmanager
def _lines_of_warnings() -> Iterator[None]:
    """Let what is assumed be said as lines, and Python's other warnings as they are."""
    others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, Assumed):
            print(printable(str(message)), file=sys.stderr, flush=True)
        else:
            others(message, category, *where, **more)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = others


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(usage(), end="")
        return 0
    if argv[0] == "--version":
        print(f"reslightning {__version__}")
        return 0
    # Slurm may ask to stop while packages are still being imported.
    later = REQUEUE_SIGNALS if argv[0] == "fit" and job_id() else ()
    handlers = {number: signal.signal(number, stop_later if number in later else stop_at_once) for number in SIGNALS}
    try:
        if argv[0] not in COMMANDS:
            allowed = f"allowed: {', '.join(COMMANDS)}"
            raise UserError(f"unknown command {argv[0]!r}{near_misses(argv[0], COMMANDS)}\n{allowed}")
        check_numbers()
        module = importlib.import_module(COMMANDS[argv[0]][0])
        return int(module.main(argv) or 0)
    except UserError as error:
        return _mistake(error)
    except TrainingError as error:
        if not isinstance(error, LostProcessError):
            give_up()
        print(f"reslightning: {printable(str(error))}", file=sys.stderr)
        return 1
    finally:
        for number, handler in handlers.items():
            # Slurm ends a job's other tasks when one dies: what is leaving already must not seem killed.
            signal.signal(number, signal.SIG_IGN if argv[0] == "fit" and job_id() else handler)


def _mistake(error: UserError) -> int:
    if not first_task():
        time.sleep(LEADER_FIRST)
    give_up()
    print(f"reslightning: {printable(str(error))}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
