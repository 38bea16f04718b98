"""Weights & Biases, online or offline: its options, and a logger whose failures end no training."""

from __future__ import annotations

import csv
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from reslightning.cluster.allocation import job_id
from reslightning.run import layout
from reslightning.run.summary import Summary
from reslightning.track.wandb_runs import COST, wandb_url

Mode = Literal["online", "offline", "disabled"]
# An unreachable server's share in a run's start and in its end, in seconds.
INIT_TIMEOUT = 30.0
FINISH_TIMEOUT = 30.0


@dataclass(frozen=True)
class Wandb:
    """Weights & Biases. A Slurm job's number and partition become tags, a job array's name the group.

    Attributes:
        mode: auto (online where a key is found, else offline), online, offline or disabled.
        project: the project runs belong to.
        entity: the user or team; none given means the key's own.
        group: runs shown together; none given means the job array's name, if there is one.
        name: the run's name; none given means the run directory's.
        job_type: what the run is for; none given means train.
        tags: words to find the run by.
        notes: a longer description.
        log_checkpoint: upload the last checkpoint when the run is finished.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "reslightning"
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    job_type: str = "train"
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    log_checkpoint: bool = False

    def in_job(self, group: str | None) -> Wandb:
        """Return these options with what the Slurm job says, if this is one, or else the group that a run had."""
        number = job_id()
        name = os.environ.get("SLURM_JOB_NAME") if "SLURM_ARRAY_JOB_ID" in os.environ else None
        words = [f"job-{number}" if number else None, os.environ.get("SLURM_JOB_PARTITION")]
        tags = list(dict.fromkeys([*self.tags, *(word for word in words if word and number)]))
        return replace(self, tags=tags, group=self.group or group or name)

    def resolved_mode(self) -> Mode:
        """Return the mode without "auto": $WANDB_MODE's if set, else by whether a key is found.

        Online without a key is offline too, with a warning: W&B would ask for one.
        """
        asked = self.mode if self.mode != "auto" else os.environ.get("WANDB_MODE", "auto")
        if asked in ("offline", "disabled"):
            return asked  # type: ignore[return-value]
        if _key_found():
            return "online"
        if asked == "online":
            warnings.warn("no W&B key is found, so the run is recorded offline; see `wandb login`", stacklevel=2)
        return "offline"


def _key_found() -> bool:
    """Whether W&B has credentials, found without asking its server or the user."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    from requests.utils import get_netrc_auth

    try:
        return get_netrc_auth(wandb_url()) is not None
    except Exception as error:  # a setting of the user's that W&B does not take
        warnings.warn(f"W&B's settings cannot be read: {error}", stacklevel=3)
        return False


class SafeWandbLogger(WandbLogger):
    """W&B whose failures never end a training: metrics.csv has every metric anyway."""

    known = 0.0  # the last epoch that the server has from before this segment

    def catch_up(self, rows: Sequence[Mapping[str, float]]) -> int:
        """Send the epochs that the server does not have: a process that is killed takes along what it has not sent.

        Args:
            rows: the rows of all epochs before this segment.

        Returns:
            How many were sent.
        """
        try:
            epoch = self.experiment.summary.get("epoch")
        except Exception as error:
            warnings.warn(f"W&B does not say which epochs it has: {error}", stacklevel=2)
            return 0
        self.known = float(epoch) if isinstance(epoch, int | float) else 0.0
        behind = [row for row in rows if row["epoch"] > self.known]
        for row in behind:
            self.log_metrics({name: value for name, value in row.items() if name != "step"}, step=int(row["step"]))
        return len(behind)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send a row, but one of an epoch that was sent before it was trained again; warn where that fails."""
        if metrics.get("epoch", math.inf) <= self.known:
            return
        try:
            super().log_metrics(metrics, step)
        except Exception as error:  # whatever its service process dies of
            warnings.warn(f"W&B did not take the metrics of step {step}: {error}", stacklevel=2)

    def show(self, folder: Path) -> None:
        """Send the confusion matrix, as counts that are not zero, and the picture of the worst images; once."""
        import wandb

        try:
            if self.experiment.summary.get("val/confusion") is not None or not (folder / layout.CONFUSION).exists():
                return
            with (folder / layout.CONFUSION).open(newline="") as file:
                names, *rows = csv.reader(file)
            counts = [
                [row[0], name, int(count)]
                for row in rows
                for name, count in zip(names[1:], row[1:], strict=True)
                if int(count)
            ]
            table = wandb.Table(columns=["class", "taken for", "images"], data=counts)
            self.experiment.log({"val/confusion": table, "val/worst": wandb.Image(str(folder / layout.WORST))})
        except Exception as error:
            warnings.warn(f"W&B did not take the confusion matrix: {error}", stacklevel=2)

    def upload(self, checkpoint: Path) -> None:
        """Send a checkpoint as an artifact."""
        import wandb

        try:
            artifact = wandb.Artifact(f"checkpoint-{self.experiment.id}", type="model")
            artifact.add_file(str(checkpoint))
            self.experiment.log_artifact(artifact)
        except Exception as error:
            warnings.warn(f"W&B did not take {checkpoint}: {error}", stacklevel=2)

    def finish(self, exit_code: int, summary: Mapping[str, Any]) -> bool:
        """End W&B's part of the run with final values; False where that fails."""
        try:
            self.experiment.summary.update(dict(summary))
            self.experiment.finish(exit_code=exit_code)
        except Exception as error:
            warnings.warn(f"W&B did not finish its run: {error}", stacklevel=2)
            return False
        return True


def start_wandb(
    options: Wandb, mode: Mode, directory: Path, run_id: str, config: Mapping[str, Any]
) -> tuple[SafeWandbLogger | None, Mode]:
    """Start or continue a run's W&B run; offline where the server does not answer.

    Args:
        options: names and tags.
        mode: online, offline or disabled.
        directory: the run directory; files go to its wandb folder.
        run_id: W&B's id, the same over all segments.
        config: what W&B shows as the run's configuration.

    Returns:
        The logger, None where disabled, and the mode it really runs in.
    """
    if mode == "disabled":
        return None, mode
    import wandb

    try:
        return begin_wandb(options, mode, directory, run_id, config), mode
    except Exception as error:
        if mode == "offline":
            warnings.warn(f"W&B could not start: {error}", stacklevel=2)
            return None, "disabled"
        warnings.warn(f"W&B's server cannot be used, so the run is recorded offline: {error}", stacklevel=2)
        wandb.teardown()
        return start_wandb(options, "offline", directory, run_id, config)


def begin_wandb(
    options: Wandb,
    mode: Mode,
    directory: Path,
    run_id: str,
    config: Mapping[str, Any],
    finish_timeout: float = FINISH_TIMEOUT,
) -> SafeWandbLogger:
    """Start or continue a run's W&B run, in which every metric is over steps, or raise what W&B raises."""
    import wandb

    run = wandb.init(
        project=options.project,
        entity=options.entity,
        group=options.group,
        name=options.name or directory.resolve().name,
        job_type=options.job_type,
        tags=options.tags,
        notes=options.notes,
        dir=directory.resolve(),  # its service process may have another working folder
        id=run_id,
        resume="allow",
        mode=mode,
        config=dict(config),
        settings=wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,  # a remote's address may hold a credential; summary.json has the commit
            disable_code=True,
            init_timeout=INIT_TIMEOUT,
            finish_timeout=finish_timeout,
            finish_timeout_raises=True,
        ),
    )
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step")
    for name in ("val/top1", "val/top5"):
        run.define_metric(name, step_metric="trainer/global_step", summary="max,last")
    run.define_metric("val/loss", step_metric="trainer/global_step", summary="min,last")
    return SafeWandbLogger(experiment=run)


def wandb_config(config: Mapping[str, Any], summary: Summary) -> dict[str, Any]:
    """Return what W&B shows as a run's configuration: all options, and the facts of its summary."""
    facts = {name: value for name, value in summary.items() if name not in ("metrics", "best", "status")}
    return {**config, "run": facts}


def wandb_summary(summary: Summary) -> dict[str, Any]:
    """Return what W&B shows as a run's result: last and best values, and its cost."""
    metrics, best = summary.get("metrics") or {}, summary.get("best") or {}
    return {
        **{f"last/{name.removeprefix('val/')}": value for name, value in metrics.items() if name.startswith("val/")},
        **{f"best/{name.removeprefix('val/')}": value for name, value in best.items()},
        **{name: summary.get(name) for name in ("status", "minutes_lost")},
        "run": {name: summary.get(name) for name in (*COST, "segments", "minutes_lost")},
    }
