"""Which run a command means, and which weights: functions of its configuration and options alone; without torch."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reslightning.cli.configs import load_config
from reslightning.cluster.allocation import first_task
from reslightning.errors import UserError
from reslightning.run import layout
from reslightning.run.directory import Run
from reslightning.run.fingerprint import differences as content_differences
from reslightning.run.fingerprint import short
from reslightning.run.identity import default_directory, differences, identity
from reslightning.run.record import evaluation_checkpoint
from reslightning.run.summary import Fingerprint

RUN_DIR_VARIABLE = "RESLIGHTNING_RUN_DIR"  # PID:DIRECTORY, tells the processes that Lightning starts as PID's


def find_run(
    config: Mapping[str, Any],
    run_dir: str | None,
    configs: Sequence[Any],
    fingerprint: Fingerprint | None,
    *,
    fresh: bool,
) -> Run:
    """Return the run that a configuration means, once its directory is known to belong to it.

    Where the configuration's directory has a run on other data, or from other weights, this one gets another.

    Args:
        config: the complete configuration, plain values.
        run_dir: the directory that the command names, if it does.
        configs: the configuration files that it names; a run's own config.yaml is that run.
        fingerprint: what data and starting weights are; None where that cannot be known.
        fresh: whether another run beside it is asked for.

    Raises:
        UserError: the directory belongs to another configuration, to a run on other data, or to none of this package's.
    """
    directory, named = _directory(config, run_dir, configs, fresh)
    run = _belonging(directory, config)
    if not (lines := _other_content(run, fingerprint)):
        return run
    assert fingerprint is not None
    besides = beside(run.directory, fingerprint)
    said = f"{run.directory} is a run of the same options on other content:\n" + "\n".join(lines)
    if named or _other_content(run := _belonging(besides, config), fingerprint):
        raise UserError(
            f"{said}\nGive the data and weights that it had, or another --run_dir; without one, what differs is "
            "another run."
        )
    if first_task():
        print(f"{said}\nso this one is {besides}")
    _hand_on(besides)
    return run


def beside(directory: Path, fingerprint: Fingerprint) -> Path:
    """Return the directory of a run whose own is taken by one of the same options on other content."""
    return directory.with_name(f"{directory.name}-{short(fingerprint)}")


def _other_content(run: Run, fingerprint: Fingerprint | None) -> list[str]:
    there = run.summary.get("fingerprint")
    return content_differences(there, fingerprint) if there and fingerprint else []


def _belonging(directory: Path, config: Mapping[str, Any]) -> Run:
    """Return the run of a directory that is new, or has this configuration."""
    run = Run(directory)
    there = run.directory / layout.CONFIG
    for file in (there, directory / layout.SUMMARY, run.metrics, run.last, run.best):
        if file.exists() and not file.is_file():
            raise UserError(f"{file} is no file, but a folder or a device\nRemove it, or give another --run_dir.")
    # An empty folder of checkpoints is what the first process of a start has made a moment ago.
    if not there.is_file() and (run.metrics.exists() or any(run.checkpoints.glob("*"))):
        raise UserError(
            f"{run.directory} holds metrics or checkpoints, but no config.yaml: it is not a run of "
            "reslightning's\nGive another --run_dir."
        )
    if there.is_file() and (lines := differences(load_config(there), config)):
        raise UserError(
            f"{run.directory} belongs to another configuration:\n" + "\n".join(lines) + "\n"
            "Give another --run_dir, or none to let the configuration choose." + _longer(run, config)
        )
    return run


def _longer(run: Run, config: Mapping[str, Any]) -> str:
    """Return how a run is trained longer, as another one, where that is what a configuration asks for."""
    there, epochs = (
        (options.get("trainer") or {}).get("max_epochs") or 0 for options in (load_config(run.config), config)
    )
    if not run.last.is_file() or epochs <= there:
        return ""
    words = ["-c", str(run.config), "--ckpt_path", str(run.last), "--trainer.max_epochs", str(epochs)]
    return f"\nTo train it longer: reslightning fit {shlex.join(words)}"


def _directory(
    config: Mapping[str, Any], run_dir: str | None, configs: Sequence[Any], fresh: bool
) -> tuple[Path, bool]:
    """Return the directory that a command means, and whether it names it."""
    if inherited := _inherited():
        return inherited, True
    directory, named = _default(config), bool(run_dir)
    if run_dir:
        directory = Path(run_dir).expanduser()
    else:
        for file in map(Path, map(str, configs)):
            own = file.name == layout.CONFIG and (file.parent / layout.SUMMARY).is_file()
            if own and identity(load_config(file)) == identity(config):
                directory, named = file.parent, True
    if fresh:
        base, number = directory, 1
        while directory.exists():
            number += 1
            directory = base.with_name(f"{base.name}-{number}")
    _hand_on(directory)
    return directory, named


def _hand_on(directory: Path) -> None:
    os.environ[RUN_DIR_VARIABLE] = f"{os.getpid()}:{directory.resolve()}"


def _default(config: Mapping[str, Any]) -> Path:
    """Return the directory of a configuration: one of a version that counted other options keeps its name."""
    directory = default_directory(config)
    if directory.exists():
        return directory
    name = directory.name.rpartition("-")[0]
    for there in sorted(directory.parent.glob(f"{name}-{'[0-9a-f]' * 8}")):
        with contextlib.suppress(UserError, KeyError, TypeError, AttributeError):  # cut, or no run's
            if not differences(load_config(there / layout.CONFIG), config):
                return there
    return directory


def _inherited() -> Path | None:
    """Return the run directory of the process that started this one as one of several; None if none did."""
    starter, _, directory = os.environ.get(RUN_DIR_VARIABLE, "").partition(":")
    if starter in ("", str(os.getpid())):  # an earlier command of this process
        return None
    if starter != str(os.getppid()):
        raise UserError(
            f"{RUN_DIR_VARIABLE}={os.environ[RUN_DIR_VARIABLE]} lies about: with it a training tells its own "
            f"processes where to write\nUnset it (unset {RUN_DIR_VARIABLE}), and give the directory as --run_dir."
        )
    return Path(directory) if "LOCAL_RANK" in os.environ else None


def places(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return where a configuration finds its data and its starting weights."""
    data, model = config.get("data") or {}, config.get("model") or {}
    return (data.get("init_args") or {}).get("root"), model.get("weights")


def belongs_to(run_dir: str, config: Mapping[str, Any]) -> bool:
    """Whether a run directory's own configuration is this one."""
    return not differences(load_config(Path(run_dir).expanduser() / layout.CONFIG), config)


def find_weights(
    command: str, run_dir: str | None, ckpt_path: str | None, weights: str | None
) -> tuple[Run | None, str]:
    """Return the run that an evaluation belongs to, if any, and where its weights are.

    Args:
        command: validate, test or predict.
        run_dir: the run directory that the command names, if it does.
        ckpt_path: the same of a checkpoint: a file, or best or last of the run.
        weights: ``model.weights``.

    Raises:
        UserError: no weights are named, or twice.
    """
    directory = Path(run_dir).expanduser() if run_dir else None
    if directory:
        if not (directory / layout.CONFIG).is_file():
            raise UserError(f"{directory} is no run directory: it has no config.yaml")
        if weights not in (None, places(load_config(directory / layout.CONFIG))[1]):
            raise UserError(
                f"both --run_dir {directory} and --model.weights {weights} say which weights to use; give one of them"
            )
    if ckpt_path in ("best", "last") and directory:
        ckpt_path = str(directory / layout.CHECKPOINTS / f"{ckpt_path}.ckpt")
    source = ckpt_path or (str(evaluation_checkpoint(directory)) if directory else weights)
    if source is None:
        raise UserError(
            f"{command} needs weights and got none; give --run_dir RUN, --ckpt_path FILE or "
            "--model.weights (torchvision:NAME, hf:USER/NAME, a run directory or a file)"
        )
    return Run(directory) if directory else None, source


def check_output(output: str | None, option: str = "--output") -> None:
    """Raise UserError where what is written would replace a file that a run is made of, its config.yaml say."""
    file = Path(output or "").expanduser().resolve()
    run = next((folder for folder in file.parents[:2] if (folder / layout.SUMMARY).is_file()), None)
    if run and file.is_file() and file.parent.name != layout.EVALUATIONS:
        raise UserError(f"{option} {output} is a file that the run {run} is made of\nGive another.")
