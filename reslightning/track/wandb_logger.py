"""Weights & Biases, online or offline: a logger whose failures end no training."""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from reslightning.run import layout
from reslightning.run.summary import Summary
from reslightning.track.wandb_runs import COST
from reslightning.track.wandb_settings import DEFAULTS, Mode, Wandb, place, refused, told

# An unreachable server's share in a run's start and in its end, in seconds.
INIT_TIMEOUT = 30.0
FINISH_TIMEOUT = 30.0
WHOLE = 100  # classes up to which a confusion matrix is sent with its zeros


class SafeWandbLogger(WandbLogger):
    """W&B whose failures never end a training: metrics.csv has every metric anyway."""

    folder: Path  # where W&B's files are
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
        """Send the confusion matrix as W&B's own plot, and the pictures of the worst and the surest images; once."""
        import wandb

        try:
            if self.experiment.summary.get("val/worst") is not None or not (folder / layout.CONFUSION).exists():
                return
            with (folder / layout.CONFUSION).open(newline="") as file:
                (_, *names), *rows = csv.reader(file)
            counts: list[Any] = [
                [row[0], name, int(count)]
                for row in rows
                for name, count in zip(names, row[1:], strict=True)
                if int(count) or len(names) <= WHOLE
            ]
            columns = ("Actual", "Predicted", "nPredictions")
            matrix = wandb.plot_table(
                vega_spec_name="wandb/confusion_matrix/v1",
                data_table=wandb.Table(columns=[*columns], data=counts),
                fields={name: name for name in columns},
                string_fields={"title": "validation images"},
            )
            pictures = {"val/worst": folder / layout.WORST, "val/surest": folder / layout.SUREST}
            pictures["gradients"] = folder / layout.GRADIENT_MAP
            shown = {name: wandb.Image(str(path)) for name, path in pictures.items() if path.exists()}
            self.experiment.log({"val/confusion": matrix, **shown})
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

    for name, why in refused(options).items():
        mode = "offline"
        warnings.warn(f"W&B refuses {name}: {why}. The run is recorded offline without it", stacklevel=2)
    options = options.acceptable()
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

    folder = place(directory)
    with told():
        run = wandb.init(
            project=options.project or DEFAULTS["project"],
            entity=options.entity,
            group=options.group,
            name=options.name or directory.resolve().name,
            job_type=options.job_type or DEFAULTS["job_type"],
            tags=options.tags,
            notes=options.notes,
            dir=folder,  # its service process may have another working folder
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
    logger = SafeWandbLogger(experiment=run)
    logger.folder = folder
    return logger


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
        **_result(best if summary.get("val_source") == "held-out" else metrics, summary),
        **{name: summary.get(name) for name in ("status", "minutes_lost")},
        "run": {name: summary.get(name) for name in (*COST, "segments", "minutes_lost")},
    }


def _result(metrics: Mapping[str, Any], summary: Summary) -> dict[str, float]:
    """Return a finished run's accuracy and its 95 % interval (Wilson's), of images drawn like the evaluated ones."""
    from scipy.stats import binomtest

    images = (summary.get("n_samples") or {}).get("val")
    if summary.get("status") != "finished" or not images or "val/top1" not in metrics:
        return {}
    found = binomtest(round(metrics["val/top1"] * images), images).proportion_ci(0.95, "wilson")
    return {"result/top1": metrics["val/top1"], "result/top1_low": found.low, "result/top1_high": found.high}
