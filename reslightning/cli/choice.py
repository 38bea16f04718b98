"""Which run a command means, and which weights: functions of its configuration and options alone; without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reslightning.cli.configs import load_config
from reslightning.errors import UserError
from reslightning.run import layout
from reslightning.run.directory import Run
from reslightning.run.identity import default_directory, differences, identity
from reslightning.run.record import evaluation_checkpoint

RUN_DIR_VARIABLE = "RESLIGHTNING_RUN_DIR"  # PID:DIRECTORY, tells the processes that Lightning starts as PID's


def find_run(config: Mapping[str, Any], run_dir: str | None, configs: Sequence[Any], *, fresh: bool) -> Run:
    """Return the run that a configuration means, once its directory is known to belong to it.

    Args:
        config: the complete configuration, plain values.
        run_dir: the directory that the command names, if it does.
        configs: the configuration files that it names; a run's own config.yaml is that run.
        fresh: whether another run beside it is asked for.

    Raises:
        UserError: the directory belongs to another configuration, or to no run of this package's.
    """
    run = Run(_directory(config, run_dir, configs, fresh))
    there = run.directory / layout.CONFIG
    if not there.is_file() and (run.metrics.exists() or run.checkpoints.exists()):
        raise UserError(
            f"{run.directory} holds metrics or checkpoints, but no config.yaml: it is not a run of "
            "reslightning's\nGive another --run_dir."
        )
    if there.is_file() and (lines := differences(load_config(there), config)):
        raise UserError(
            f"{run.directory} belongs to another configuration:\n" + "\n".join(lines) + "\n"
            "Give another --run_dir, or none to let the configuration choose."
        )
    return run


def _directory(config: Mapping[str, Any], run_dir: str | None, configs: Sequence[Any], fresh: bool) -> Path:
    if inherited := _inherited():
        return inherited
    directory = default_directory(config)
    if run_dir:
        directory = Path(run_dir).expanduser()
    else:
        for file in map(Path, map(str, configs)):
            if file.name == layout.CONFIG and (file.parent / layout.SUMMARY).is_file():
                directory = file.parent if identity(load_config(file)) == identity(config) else directory
    if fresh:
        base, number = directory, 1
        while directory.exists():
            number += 1
            directory = base.with_name(f"{base.name}-{number}")
    os.environ[RUN_DIR_VARIABLE] = f"{os.getpid()}:{directory.resolve()}"
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
        if weights not in (None, load_config(directory / layout.CONFIG)["model"].get("weights")):
            raise UserError(
                f"both --run_dir {directory} and --model.weights {weights} say which weights to use; give one of them"
            )
    if ckpt_path in ("best", "last") and directory:
        ckpt_path = str(directory / layout.CHECKPOINTS / f"{ckpt_path}.ckpt")
    source = ckpt_path or (str(evaluation_checkpoint(directory)) if directory else weights)
    if source is None:
        raise UserError(
            f"{command} needs weights and got none; give --run_dir RUN, --ckpt_path FILE or "
            "--model.weights (torchvision:NAME, a run directory or a file)"
        )
    return Run(directory) if directory else None, source
