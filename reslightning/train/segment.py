"""One segment of a run: from the checks before it, over what it says at its start, to its end."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_only

from reslightning.cluster.allocation import job_id, restarts
from reslightning.cluster.requeue import REQUEUE_SIGNALS, STARTS_WITHOUT_PROGRESS, begun, requeue, running
from reslightning.data.base import DataModule
from reslightning.data.progress import finished_epochs, lost_process, started_by_lightning
from reslightning.data.registry import SPLITS
from reslightning.errors import FULL, SIGNALS, DivergedError, LostProcessError, Stopped, TrainingError, UserError
from reslightning.files import read_rows, write_atomically
from reslightning.models.checkpoint import read_checkpoint
from reslightning.models.weights import check_fit
from reslightning.run.directory import Run
from reslightning.run.identity import determining, identity
from reslightning.run.provenance import changed_code, environment, versions
from reslightning.run.summary import Fingerprint, Summary
from reslightning.track.metrics_csv import MetricsCSV
from reslightning.track.wandb_logger import SafeWandbLogger, start_wandb, wandb_config, wandb_summary
from reslightning.track.wandb_settings import Wandb
from reslightning.train.checks import check
from reslightning.train.classifier import ImageClassifier
from reslightning.train.memory import keep_freed_memory
from reslightning.train.messages import describe, result, run_cost, verdict, wrapped
from reslightning.train.optim import OPTIMIZERS, check_state
from reslightning.train.preemption import Preemption
from reslightning.train.recorder import Recorder
from reslightning.train.throughput import Throughput


class Segment:
    """Trains a run from where it stands, and leaves its directory true whatever happens.

    Args:
        run: the run directory.
        config: the complete configuration, plain values.
        config_text: the same as YAML, for config.yaml.
        fingerprint: what data and starting weights are.
        fresh: whether the command asked for a new run, so that repeating it would start another.
        checkpoint_minutes: minutes between checkpoints within an epoch.
    """

    def __init__(
        self,
        run: Run,
        config: Mapping[str, Any],
        config_text: str,
        fingerprint: Fingerprint,
        *,
        fresh: bool = False,
        checkpoint_minutes: float = 10.0,
    ) -> None:
        self.run = run
        self.config = config
        self.config_text = config_text
        self.fingerprint = fingerprint
        self.fresh = fresh
        self.csv = MetricsCSV(run.metrics)
        self.throughput = Throughput()
        self.recorder = Recorder(run, self.csv, self.throughput)
        self.preemption = Preemption(self.recorder.save_last, 60 * checkpoint_minutes)
        self.wandb: SafeWandbLogger | None = None
        self.position = (0, 0)  # epochs finished and steps taken before this segment
        self.state: dict[str, Any] = {}

    def callbacks(self) -> list[Callback]:
        """Return the callbacks every training has, in the order they must run."""
        return [self.throughput, self.recorder, self.preemption]

    def fit(self, trainer: Trainer, model: ImageClassifier, data: DataModule, wandb: Wandb, start: str | None) -> None:
        """Train to the end, or until stopped; ``start`` is a checkpoint for a run without one."""
        check(model, data, trainer)
        if trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()
        self._checkpoint(trainer, model, start)
        if self.leads:
            self.run.open()
        try:
            # Again: another writer may have gone on until the lock was ours.
            checkpoint = self._checkpoint(trainer, model, start)
            if self.leads:
                self._check_start(model)
            self._train(trainer, model, data, wandb, checkpoint)
        except (Stopped, TrainingError, UserError) as error:
            if not self.leads and isinstance(error, UserError):
                self.run.tell(str(error))
            self.run.close()  # before another node may start
            self._leave(error, trainer)
            raise error
        finally:
            self.run.close()

    def _leave(self, error: BaseException, trainer: Trainer) -> None:
        """Requeue what was stopped for it, and end the processes that only follow well.

        All processes find a stop or a failure of training together, and Lightning and srun would
        kill the first one, which sees to it, for the end of another. A mistake of the user's may
        be one of this process's node alone.
        """
        if self.leads:
            asked = isinstance(error, Stopped) and error.signal in REQUEUE_SIGNALS
            # A job that was cancelled meanwhile must not come back.
            if job_id() and (asked or isinstance(error, LostProcessError)) and running():
                for number in SIGNALS:  # Slurm ends what it requeues, before the answer is printed
                    signal.signal(number, signal.SIG_IGN)
                print(requeue(), flush=True)
        elif not isinstance(error, UserError) or started_by_lightning(trainer):
            raise SystemExit(0)

    def _check_start(self, model: ImageClassifier) -> None:
        """Refuse a start that could only fail, or that Slurm has repeated in vain."""
        starts = self.run.starts_without_progress
        if restarts() and starts >= STARTS_WITHOUT_PROGRESS:
            raise TrainingError(
                f"{self.run.directory}: the last {starts} starts took no step that was kept, so job {job_id()} ends at "
                f"its restart number {restarts()}\nIts output may say what ended them; submit it again to go on."
            )
        weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
        averaged = model.hparams["ema_decay"] is not None
        copies = 1 + OPTIMIZERS[model.optim.name].kept + averaged
        self.run.check_space(weights * copies)

    @property
    def leads(self) -> bool:
        """Whether this is the one process that writes."""
        return bool(rank_zero_only.rank == 0)  # type: ignore[attr-defined]

    def _checkpoint(self, trainer: Trainer, model: ImageClassifier, start: str | None) -> Path | None:
        """Return the checkpoint to go on from, once it is known to fit."""
        own = self.run.last.is_file()
        if not own and not start:
            return None
        path = self.run.last if own else Path(str(start)).expanduser()
        if not path.is_file():
            raise UserError(f"no checkpoint at {path}; give the path of a last.ckpt or best.ckpt as --ckpt_path")
        content = read_checkpoint(path)
        if "loops" not in content or not {"train_metrics", "train_sums"} & content.keys():
            raise UserError(
                f"{path} holds weights but no training to continue; to start from them use --model.weights {path}"
            )
        check_fit(model.state_dict(), content["state_dict"], str(path), model.arch)
        self.position = (finished_epochs(content), content["global_step"])
        model.goes_on_from = None if own else content["global_step"]
        if not own:
            check_state(model.model, model.optim, content, str(path))
            self._check_other(trainer, model, content, path)
        self.state = content["callbacks"][self.recorder.state_key] if own else {}
        return path

    def _check_other(self, trainer: Trainer, model: ImageClassifier, content: Mapping[str, Any], path: Path) -> None:
        """Refuse another run's checkpoint that has nothing to go on with, or would be taken for what it is not."""
        if "averaging_state" in content and model.hparams["ema_decay"] is None:
            raise UserError(
                f"the weights in {path} are an average, which no training goes on from\nGive --model.ema_decay "
                f"{content['hyper_parameters']['ema_decay']} as there, or start from them with --model.weights {path}"
            )
        epochs, _ = self.position
        if epochs >= (trainer.max_epochs or 0):
            raise UserError(
                f"{path} has {epochs} epochs behind it, and trainer.max_epochs={trainer.max_epochs} leaves none to "
                f"train\nallowed: more than {epochs}, those before counted in"
            )

    def _begin(
        self, trainer: Trainer, model: ImageClassifier, data: DataModule, wandb: Wandb, checkpoint: Path | None
    ) -> None:
        epoch, step = self.position
        # First, as processes on other nodes may look just now whose directory it is.
        write_atomically(self.run.config, self.config_text)
        self.csv.keep(self.state.get("rows", 0))
        # What counts is the checkpoint: a killed run's summary may be from before it.
        reached: Summary = {
            "epoch": epoch,
            "global_step": step,
            "metrics": self.state.get("metrics", {}),
            "best": self.state.get("best", {}),
        }
        before = (self.run.summary.get("segments") or [{}])[-1].get("world_size", trainer.world_size)
        wandb = wandb.in_job(self.run.summary.get("group"))
        own: Summary = {
            "fingerprint": self.fingerprint,
            "device": trainer.strategy.root_device.type,
            "group": wandb.group,
            "tags": wandb.tags,
        }
        self.run.start(_facts(self.config, model, data) | reached | own, world_size=trainer.world_size, step=step)
        begun(self.run.directory)
        mode = wandb.resolved_mode()
        config = wandb_config(self.config, self.run.summary)
        self.wandb, mode = start_wandb(wandb, mode, self.run.directory, self.run.summary["run_id"], config)
        if self.wandb:
            self.run.summary["segments"][-1]["wandb"] = mode
            if self.wandb.folder != self.run.directory.resolve():
                self.run.summary["segments"][-1]["wandb_dir"] = str(self.wandb.folder)
            self.run.update()
            if mode == "online":
                rows, _ = read_rows(self.run.metrics)
                self.wandb.catch_up([row for row in rows if {"epoch", "step"} <= row.keys()])
            trainer.loggers = [*trainer.loggers, self.wandb]
        where = f"continues behind epoch {epoch}, at step {step}" if checkpoint else "a new run"
        print(f"{self.run.directory}: {where}")
        if checkpoint and before != trainer.world_size:
            print(f"  processes  {trainer.world_size} instead of {before}: the same samples a step, other rounding")
        if changed := changed_code(self.run.summary):
            print(f"  warning: {changed}")
        print(wrapped(describe(trainer, model, data, mode)))
        sys.stdout.flush()

    def _train(
        self, trainer: Trainer, model: ImageClassifier, data: DataModule, wandb: Wandb, checkpoint: Path | None
    ) -> None:
        status, exit_code = "failed", 1
        try:
            if self.leads:
                self._begin(trainer, model, data, wandb, checkpoint)
            with self.preemption.stopping():
                trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
            status, exit_code = "finished", 0
            self._show(wandb)
        except Stopped as stopped:
            status, exit_code = "preempted", int(str(stopped.code))
            if self.leads:
                self._say_stopped(stopped)
            raise
        except RuntimeError as error:
            if not lost_process(error):
                raise
            if self.leads and (mistake := self.run.told()):
                raise UserError(mistake) from error  # what ended the other process would end it again
            # A job that is requeued for it waits in the queue.
            status = "preempted" if self.leads and job_id() and running() else status
            words = str(error).strip().splitlines()[0]
            raise LostProcessError(f"another process has gone: {words}\nIts output may say why.") from error
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise TrainingError(
                f"no room to write to {self.run.directory}: {error.strerror}\nThe last checkpoint is whole: make room, "
                "and the same command goes on."
            ) from error
        finally:
            self._end(status, exit_code)
        if self.leads:
            self._say_finished(trainer, data)

    def _show(self, wandb: Wandb) -> None:
        """Send what a finished training found, and what W&B is asked to keep."""
        if self.leads and self.wandb:
            self.wandb.show(self.run.evaluations)
            if wandb.log_checkpoint:
                self.wandb.upload(self.run.last)

    def _say_finished(self, trainer: Trainer, data: DataModule) -> None:
        print(wrapped(result(self.run.summary)), flush=True)
        if data.reads_files:
            workers, cpus = trainer.train_dataloader.num_workers, data.cpus()  # type: ignore[union-attr]
            print(wrapped([f"  {verdict(self.throughput.data_wait, workers, cpus)}"]), flush=True)

    def _say_stopped(self, stopped: Stopped) -> None:
        step = self.run.summary.get("global_step", 0)
        again = f"reslightning fit --run_dir {self.run.directory}" if self.fresh else "the same command"
        bar = "\n" if sys.stdout.isatty() else ""  # the progress bar's line ends here
        print(f"{bar}stopped by {stopped.signal.name} at step {step}: {again} goes on from there", flush=True)

    def _end(self, status: str, exit_code: int) -> None:
        if not self.leads or "status" not in self.run.summary:
            return
        try:
            self.run.update(status=status, diverged=isinstance(sys.exc_info()[1], DivergedError))
            ended = self.wandb is not None and self.wandb.finish(exit_code, wandb_summary(self.run.summary))
            # A row behind the last checkpoint, on a full disk say, is trained and recorded again.
            if ended and self.recorder.last.get("epoch", 0) == self.run.summary["epoch"]:
                self.run.summary["segments"][-1]["recorded"] = True
                self.run.update()
        except OSError as error:
            print(f"summary.json could not be written ({error.strerror}) and does not say {status!r}", file=sys.stderr)


def _facts(config: Mapping[str, Any], model: ImageClassifier, data: DataModule) -> Summary:
    parameters, multiply_adds = run_cost(model, data)
    return {
        "identity": identity(config),
        "command": shlex.join(["reslightning", *sys.argv[1:]]),
        "arch": model.arch,
        "shortcut": model.hparams["shortcut"],
        "version": model.hparams["version"],
        "norm": model.hparams["norm"],
        "dataset": type(data).__name__,
        "classes": data.num_classes,
        "protocol": model.protocol(data),
        "exif_orientation": data.upright,
        "mean": data.mean.tolist(),
        "std": data.std.tolist(),
        **data.sizes,  # type: ignore[typeddict-item]
        "val_source": data.val_source,
        "val_part": data.part("val"),
        "majority": {split: data.majority(split) for split in ("train", "val")},
        "n_samples": {split: data.n_samples(split) for split in SPLITS},
        "parameters": parameters,
        "multiply_adds": multiply_adds,
        "epochs": config["trainer"]["max_epochs"],
        "seed": config["seed_everything"],
        "options": determining(config),
        "versions": versions(),
        "environment": environment() | {"threads": torch.get_num_threads()},  # on which sums' rounding depends
    }
