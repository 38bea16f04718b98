"""The LightningCLI: which options there are, where configs come from, which run a command means."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
import yaml
from jsonargparse.typing import NonNegativeFloat
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

from reslightning import slurm
from reslightning.callbacks.recorder import AtomicCheckpointIO
from reslightning.classifier import ImageClassifier
from reslightning.configs import arrange, load_config
from reslightning.data import CIFAR10, CIFAR100, DataModule, Digits, ImageFolder, ImageNet
from reslightning.data.base import prepare
from reslightning.errors import UserError
from reslightning.evaluation import PredictionWriter, evaluate
from reslightning.explain import explain
from reslightning.identity import default_directory, differences, identity
from reslightning.messages import result
from reslightning.options import refuse_secrets
from reslightning.runs import Run, evaluation_checkpoint
from reslightning.tracking import Wandb
from reslightning.training import Segment, check

DATA_SETS: dict[str, type[DataModule]] = {
    cls.__name__: cls for cls in (Digits, CIFAR10, CIFAR100, ImageNet, ImageFolder)
}
# Lightning ends or validates within an epoch with these, and a run could not go on exactly.
NOT_SUPPORTED = (
    ("max_steps", (-1,), "lengths are in epochs, trainer.max_epochs"),
    ("max_time", (None,), "lengths are in epochs, trainer.max_epochs; a run that is stopped goes on where it was"),
    ("val_check_interval", (None, 1.0), "validation comes behind whole epochs, trainer.check_val_every_n_epoch"),
)
RUN_DIR_VARIABLE = "RESLIGHTNING_RUN_DIR"  # tells the processes that Lightning starts


class Parser(LightningArgumentParser):
    """Says what is wrong in one line with a near miss, instead of printing every option."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a UserError for whatever the parser does not accept."""
        raise UserError(str(message)) from ex


class CLI(LightningCLI):
    """``fit``, ``validate``, ``test`` and ``predict`` with one configuration and one run directory."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.run: Run | None = None
        self.segment: Segment | None = None
        quiet()
        super().__init__(
            ImageClassifier,
            DataModule,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            save_config_callback=None,
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={"allow_abbrev": False, "prog": "reslightning"},
            trainer_defaults={
                "max_epochs": 164,
                "enable_model_summary": False,
                "num_sanity_val_steps": 0,
                "use_distributed_sampler": False,
            },
            args=arrange(list(argv)),  # type: ignore[arg-type]  # readings, for parse_arguments
        )

    # -- options ---------------------------------------------------------------------------------

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options that are neither Lightning's, the model's nor the data's."""
        parser.add_class_arguments(Wandb, "wandb")
        for option, kind, default, text in (
            ("--run_dir", str, None, "the run's directory (default: runs/<data>-<arch>-<seed>-<identity>)"),
            ("--output", str, None, "predict: the CSV file to write (default: in the run directory)"),
            ("--checkpoint_minutes", NonNegativeFloat, 10.0, "minutes between checkpoints within an epoch"),
        ):
            parser.add_argument(option, type=kind, default=default, help=text)
        text = "fit: start another run beside one of the same configuration"
        parser.add_argument("--fresh", action="store_true", help=text)
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed")
        parser.set_defaults({"data": {"class_path": "reslightning.data.Digits"}})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the first of a command line's readings that means the run directory it names."""
        first = None
        for reading in args:
            self.subcommand = reading[0]
            try:
                self.config = parser.parse_args(reading)
            except UserError as error:
                raise UserError(explain(str(error), self._subcommand_parsers[self.subcommand], DATA_SETS)) from error
            first = first or self.config
            if len(args) == 1 or not differences(self._there(), yaml.safe_load(self._text())):
                return
        self.config = first

    def _there(self) -> dict[str, Any]:
        return load_config(Path(self._options.run_dir).expanduser() / "config.yaml")

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would let a checkpoint's options override the command line's."""

    # -- what the command means ------------------------------------------------------------------

    def before_instantiate_classes(self) -> None:
        """Find the run that this command means; a finished one is shown and ends the command."""
        config = self._options
        self._refuse()
        if self.subcommand != "predict":
            slurm.check(_devices(config.trainer), config.trainer.num_nodes)
        if self.subcommand != "fit":
            self._choose_weights()
        elif not config.trainer.fast_dev_run:
            self._choose_run()

    def _refuse(self) -> None:
        refuse_secrets(yaml.safe_load(self._text()))
        for option, nothing, instead in NOT_SUPPORTED:
            if self._options.trainer[option] not in nothing:
                raise UserError(f"trainer.{option} is not supported: {instead}")

    @property
    def _options(self) -> Any:
        return self.config[str(self.subcommand)]

    def _text(self) -> str:
        """Return the resolved configuration as YAML, without what only this command is about."""
        config = self._options.clone()
        for key in ("config", "run_dir", "fresh", "output"):
            config.pop(key, None)
        return self._parser(self.subcommand).dump(config, skip_unset=False, skip_validation=True)

    def _choose_run(self) -> None:
        if self._options.fresh and slurm.job_id():
            raise UserError(
                "--fresh inside a Slurm job would start another run at every requeue; give the new run's directory "
                "as --run_dir, or use reslightning submit"
            )
        text = self._text()
        config = yaml.safe_load(text)
        self.run = self._find_run(config)
        if self.run.summary.get("status") == "finished":
            print(f"{self.run.directory}: nothing to do, --fresh would start another run beside it")
            print("\n".join(result(self.run.summary)))
            raise SystemExit(0)
        self.segment = Segment(
            self.run,
            config,
            text,
            fresh=bool(self._options.fresh),
            checkpoint_minutes=self._options.checkpoint_minutes,
        )

    def _find_run(self, config: dict[str, Any]) -> Run:
        """Return the run that a configuration means, once its directory is known to belong to it."""
        self.run = Run(self._directory(config))
        there = self.run.directory / "config.yaml"
        if not there.is_file() and (self.run.metrics.exists() or self.run.checkpoints.exists()):
            raise UserError(
                f"{self.run.directory} holds metrics or checkpoints, but no config.yaml: it is not a run of "
                "reslightning's\nGive another --run_dir."
            )
        if there.is_file():
            lines = differences(load_config(there), config)
            if lines:
                raise UserError(
                    f"{self.run.directory} belongs to another configuration:\n" + "\n".join(lines) + "\n"
                    "Give another --run_dir, or none to let the configuration choose."
                )
        return self.run

    def _directory(self, config: dict[str, Any]) -> Path:
        if inherited := os.environ.get(RUN_DIR_VARIABLE) if "LOCAL_RANK" in os.environ else None:
            return Path(inherited)
        directory = default_directory(config)
        if self._options.run_dir:
            directory = Path(self._options.run_dir).expanduser()
        else:
            for file in self._options.config or []:
                parent = Path(str(file)).parent
                if Path(str(file)).name == "config.yaml" and (parent / "summary.json").is_file():
                    directory = parent if identity(load_config(Path(str(file)))) == identity(config) else directory
        if self._options.fresh:
            base, number = directory, 1
            while directory.exists():
                number += 1
                directory = base.with_name(f"{base.name}-{number}")
        os.environ[RUN_DIR_VARIABLE] = str(directory.resolve())
        return directory

    def _choose_weights(self) -> None:
        config = self._options
        self.given = yaml.safe_load(self._text())
        directory = Path(config.run_dir).expanduser() if config.run_dir else None
        if directory:
            if not (directory / "config.yaml").is_file():
                raise UserError(f"{directory} is no run directory: it has no config.yaml")
            self.run = Run(directory)
            own = load_config(directory / "config.yaml")["model"].get("weights")
            if config.model.weights not in (None, own):
                raise UserError(
                    f"both --run_dir {directory} and --model.weights {config.model.weights} say which weights to "
                    "use; give one of them"
                )
        if config.ckpt_path in ("best", "last") and directory:
            config.ckpt_path = str(directory / "checkpoints" / f"{config.ckpt_path}.ckpt")
        source = config.ckpt_path or (str(evaluation_checkpoint(directory)) if directory else config.model.weights)
        if source is None:
            raise UserError(
                f"{self.subcommand} needs weights and got none; give --run_dir RUN, --ckpt_path FILE or "
                "--model.weights (torchvision:NAME, a run directory or a file)"
            )
        config.model.weights, config.ckpt_path = source, None

    # -- what is built -----------------------------------------------------------------------------

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer with what every run has: rows, checkpoints, signals."""
        config = self._get(self.config_init, "trainer")
        loggers = [config.logger] if isinstance(config.logger, Logger) else config.logger
        loggers = list(loggers) if isinstance(loggers, list) else []
        plugins = config.plugins if isinstance(config.plugins, list) else [config.plugins] if config.plugins else []
        plugins = [*plugins, AtomicCheckpointIO()]
        if SLURMEnvironment.detect():
            plugins.append(SLURMEnvironment(auto_requeue=False))
        given = config.callbacks or []
        callbacks = list(given) if isinstance(given, list) else [given]
        bar = config.enable_progress_bar is not False and sys.stdout.isatty()
        if bar and not any(isinstance(callback, ProgressBar) for callback in callbacks):
            callbacks.append(TQDMProgressBar())
        checkpointing = False
        if self.subcommand == "predict":
            callbacks.append(PredictionWriter(self._predictions()))
        if self.segment:
            loggers, checkpointing = [self.segment.csv, *loggers], True
            callbacks += self.segment.callbacks()
        try:
            return super().instantiate_trainer(
                **kwargs,
                logger=loggers or False,
                plugins=plugins,
                callbacks=callbacks,
                enable_checkpointing=checkpointing,
                enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
            )
        except (TypeError, ValueError) as error:
            raise UserError(f"the trainer does not take its options: {error}") from error

    def _predictions(self) -> Path:
        if self._options.output:
            return Path(self._options.output).expanduser()
        if self.run is None:
            raise UserError("predict without --run_dir needs a place to write to: give --output FILE.csv")
        return self.run.directory / "evaluations" / "test-predictions.csv"

    # -- what is done ------------------------------------------------------------------------------

    def fit(self, model: ImageClassifier, datamodule: DataModule, ckpt_path: str | None = None, **_: Any) -> None:
        """Train; a trial run (fast_dev_run) leaves no run directory."""
        if self.segment:
            wandb = self._get(self.config_init, "wandb")
            self.segment.fit(self.trainer, model, datamodule, wandb, ckpt_path)
        else:
            check(datamodule, self.trainer)
            self.trainer.fit(model, datamodule=datamodule)

    def validate(self, model: ImageClassifier, datamodule: DataModule, **_: Any) -> None:
        """Evaluate the validation images."""
        self._evaluate(model, datamodule, "val")

    def test(self, model: ImageClassifier, datamodule: DataModule, **_: Any) -> None:
        """Evaluate the test images."""
        self._evaluate(model, datamodule, "test")

    def predict(self, model: ImageClassifier, datamodule: DataModule, **_: Any) -> None:
        """Write the test images' probabilities."""
        prepare(datamodule)
        self.trainer.predict(model, datamodule=datamodule, return_predictions=False)

    def _evaluate(self, model: ImageClassifier, data: DataModule, split: Literal["val", "test"]) -> None:
        trained = load_config(self.run.directory / "config.yaml") if self.run else None
        evaluate(
            self.trainer,
            model,
            data,
            split,
            weights=self._options.model.weights,
            run=self.run,
            config=self.given,
            trained=trained,
        )


class Preview(CLI):
    """Reads and checks a ``fit`` command line as its job will, and finds its run, without starting it.

    Args:
        argv: the command line, from ``fit`` on.
        nodes: the job's nodes.
        devices: its tasks on each node.

    Attributes:
        run: the run it means.
        text: its complete configuration, as YAML.
    """

    run: Run
    text: str

    def __init__(self, argv: Sequence[str], nodes: int, devices: int) -> None:
        self.nodes, self.devices = nodes, devices
        super().__init__(argv)

    def before_instantiate_classes(self) -> None:
        """Find the run."""
        self._refuse()
        trainer = self._options.trainer
        if (trainer.num_nodes, _devices(trainer)) != (self.nodes, self.devices):
            raise UserError(
                f"trainer.num_nodes={trainer.num_nodes} x trainer.devices={trainer.devices} do not match the job's "
                f"{self.nodes} nodes x {self.devices} tasks; leave them out, submit sets them"
            )
        self.text = self._text()
        self.run = self._find_run(yaml.safe_load(self.text))
        os.environ.pop(RUN_DIR_VARIABLE, None)

    def instantiate_classes(self) -> None:
        """Build the network and the data module, which check their options, but read no data."""
        built = self.parser.instantiate_classes(self.config)[str(self.subcommand)]
        built.data.check_options()
        built.data.micro_batch_size(self.nodes * self.devices, self._options.trainer.accumulate_grad_batches)

    def _run_subcommand(self, subcommand: str) -> None:
        """Do nothing."""


def _devices(trainer: Any) -> int:
    """Return the number of devices on a node that a Trainer with these options would use."""
    if isinstance(trainer.devices, list):
        return len(trainer.devices)
    on_gpu = trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if str(trainer.devices) in ("auto", "-1"):
        return torch.cuda.device_count() if on_gpu else 1
    listed = [part for part in str(trainer.devices).split(",") if part]
    return len(listed) if len(listed) > 1 or not listed[0].isdigit() else int(listed[0])


def quiet() -> None:
    """Silence what Lightning says and a run's own first lines say better, or what is by design."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for by_design in (
        ".*does not have many workers.*",  # loaders move indices
        ".*ended before the epoch ended and your dataloader is not resumable.*",  # the sampler is
        ".*is smaller than the logging interval.*",  # rows are written per epoch
        ".*LeafSpec.*",  # Lightning's own use of torch
        ".*The `srun` command is available on your system but is not used.*",  # a login node is fine
        r".*recommended to use `self.log\(.*sync_dist=True.*",  # sums are reduced before they are logged
        ".*all_gather is deprecated.*",  # Lightning's own use of torch
        ".*in eval mode at the start of training.*",  # frozen stages
    ):
        warnings.filterwarnings("ignore", message=by_design)
