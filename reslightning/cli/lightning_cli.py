"""The LightningCLI: which options there are, and what a command builds and does with them."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn, cast, get_args

import torch
import yaml
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from reslightning.analysis.recording import GradientFlow, check_recording
from reslightning.cli.choice import belongs_to, check_output, find_run, find_weights, places
from reslightning.cli.configs import arrange, load_config
from reslightning.cli.counting import leave_out, refuse, refuse_dropped, refuse_unread
from reslightning.cli.explain import explain, option_types, unwrapped
from reslightning.cli.given import Given, given_options
from reslightning.cli.options import EVALUATING, OWN, refuse_secrets
from reslightning.cli.parser import STRICT, Dumper, count_batches
from reslightning.cluster.allocation import check as check_allocation
from reslightning.cluster.allocation import check_places, job_id
from reslightning.data import registry
from reslightning.data.base import DataModule, prepare
from reslightning.data.progress import ddp_options, forks
from reslightning.errors import UserError
from reslightning.evaluation.checks import check_use, known_classes
from reslightning.evaluation.evaluate import evaluate, file_name, say_differences
from reslightning.evaluation.findings import Findings
from reslightning.evaluation.outputs import embeddings
from reslightning.evaluation.predict import PredictionWriter
from reslightning.evaluation.protocols import choose
from reslightning.models.weights import read_source
from reslightning.run.directory import Run
from reslightning.run.record import weights_file
from reslightning.run.summary import Content, Fingerprint
from reslightning.track.wandb_settings import Wandb
from reslightning.train.bar import Bar
from reslightning.train.callbacks import check_callbacks, keep_apart
from reslightning.train.checks import check
from reslightning.train.classifier import ImageClassifier
from reslightning.train.messages import result, say_precision, wrapped
from reslightning.train.recorder import AtomicCheckpointIO
from reslightning.train.segment import Segment

# Imported here: the parser takes a bare class name of what is imported only.
DATA_SETS = {name: registry.load(name) for name in registry.DATA_SETS}
MOST_DEVICES = 1024  # on a node: Lightning makes a list of them
# StochasticWeightAveraging and Timer have such for defaults, and YAML knows none.
Dumper.add_representer(torch.device, lambda dumper, device: dumper.represent_str(str(device)))
Dumper.add_multi_representer(Enum, lambda dumper, choice: dumper.represent_data(choice.value))


class Parser(LightningArgumentParser):
    """Leaves what it does not accept to be said in one line, instead of printing every option."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a UserError."""
        raise UserError(str(message)) from ex


class CLI(LightningCLI):
    """``fit``, ``validate``, ``test`` and ``predict`` with one configuration and one run directory."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.subcommand = argv[0]
        self.run: Run | None = None
        self.segment: Segment | None = None
        self.fingerprint: Fingerprint | None = None
        self.content: Mapping[str, Any] = {}  # of the checkpoint that is evaluated
        self.outputs: int | None = None  # the classes that its network knows
        super().__init__(
            ImageClassifier,
            DataModule,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            save_config_callback=None,
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={"allow_abbrev": False, "prog": "reslightning", "parser_mode": STRICT},
            trainer_defaults={
                "max_epochs": 164,
                "enable_model_summary": False,
                "num_sanity_val_steps": 0,
                "use_distributed_sampler": False,
            },
            args=arrange(list(argv)),  # type: ignore[arg-type]  # readings, for parse_arguments
        )

    # -- options ---------------------------------------------------------------------------------

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the command that is given alone: each one's parser takes a while to build."""
        command = str(self.subcommand)
        return {command: LightningCLI.subcommands()[command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options that are neither Lightning's, the model's nor the data's."""
        parser.add_class_arguments(Wandb, "wandb")
        for option, (kind, default, text) in OWN.items():
            how = {"type": kind, "default": default} if kind else {"action": "store_true"}
            how |= {"nargs": "?", "const": True} if bool in get_args(kind) else {}
            parser.add_argument(f"--{option}", help=text, **how)
        parser.link_arguments("data.num_classes", "model.num_classes", self._known, apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed")
        parser.set_defaults({"data": {"class_path": "reslightning.data.Digits"}})
        count_batches(parser)

    def _known(self, classes: int) -> int:
        return self.outputs or classes

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the first of a command line's readings that means the run directory it names."""
        command, readings = str(self.subcommand), list[tuple[Any, list[Given]]]()
        built = self._subcommand_parsers[command]
        types = option_types(built, DATA_SETS.values())
        for reading in args:
            given = given_options(reading[1:])
            refuse_unread(given, types)
            refuse_dropped(given)
            try:
                self.config = parser.parse_args(reading).clone(with_meta=False)  # of groups in files: options alone
            except UserError as error:
                raise UserError(explain(str(error), built, DATA_SETS)) from error
            readings.append((self.config, given))
            if len(args) == 1 or belongs_to(self._options.run_dir, yaml.safe_load(self._text())):
                break
        else:
            self.config = readings[0][0]
        given = next(given for config, given in readings if config is self.config)
        refuse(command, given, self._options)
        leave_out(given, self._options)

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would let a checkpoint's options override the command line's."""

    # -- what the command means ------------------------------------------------------------------

    def before_instantiate_classes(self) -> None:
        """Refuse what cannot be, and find the weights that an evaluation means."""
        config = self._options
        self._refuse()
        if devices(config.trainer) > MOST_DEVICES:
            raise UserError(
                f"trainer.devices={config.trainer.devices} is out of range; allowed: at most {MOST_DEVICES}"
            )
        check_places(devices(config.trainer) * config.trainer.num_nodes)
        if self.subcommand != "predict" or not job_id():  # nothing starts other nodes
            check_allocation(devices(config.trainer), config.trainer.num_nodes)
        if self.subcommand != "fit":
            self._choose_weights()
            self._read_as_before()

    def _refuse(self) -> None:
        if self.subcommand == "fit":
            given = Wandb(**self._options.wandb.as_dict())
            given.asked_mode()
            for name, value in vars(given.chosen()).items():
                self._options.wandb[name] = value
        refuse_secrets(yaml.safe_load(self._text()))

    @property
    def _options(self) -> Any:
        return self.config[str(self.subcommand)]

    def _text(self) -> str:
        """Return the resolved configuration as YAML, without what only this command is about."""
        config = self._options.clone()
        for key in ("config", "run_dir", "fresh", *EVALUATING):
            config.pop(key, None)
        return self._parser(self.subcommand).dump(config, skip_unset=False, skip_validation=True)

    def instantiate_classes(self) -> None:
        """Build everything; of a finished run whose data or weights are gone, show the result."""
        try:
            with unwrapped():
                super().instantiate_classes()
        except UserError:
            if self.subcommand == "fit" and self.fingerprint is None and not self._options.fresh:
                config = yaml.safe_load(self._text())
                run = self._find_run(config)
                there = load_config(run.config) if run.config.is_file() else {}
                if run.summary.get("status") == "finished" and places(there) == places(config):
                    self._show(run)
            raise

    def _find_run(self, config: Mapping[str, Any]) -> Run:
        options = self._options
        return find_run(config, options.run_dir, options.config or [], self.fingerprint, fresh=options.fresh)

    @staticmethod
    def _show(run: Run) -> NoReturn:
        print(f"{run.directory}: nothing to do, --fresh would start another run beside it")
        print(wrapped(result(run.summary)))
        raise SystemExit(0)

    def _choose_run(self) -> None:
        """Find the run that this command means; a finished one is shown and ends the command."""
        options, text = self._options, self._text()
        if options.fresh and job_id():
            raise UserError(
                "--fresh inside a Slurm job would start another run at every requeue; give the new run's directory "
                "as --run_dir, or use reslightning submit"
            )
        config = yaml.safe_load(text)
        self.fingerprint = fingerprint(self.model, self.datamodule)
        self.run = self._find_run(config)
        if self.run.summary.get("status") == "finished":
            self._show(self.run)
        self._read_as_before()
        minutes = options.checkpoint_minutes
        self.segment = Segment(
            self.run, config, text, self.fingerprint, fresh=bool(options.fresh), checkpoint_minutes=minutes
        )

    def _choose_weights(self) -> None:
        config = self._options
        self.given = yaml.safe_load(self._text())
        self.run, config.model.weights = find_weights(
            str(self.subcommand), config.run_dir, config.ckpt_path, config.model.weights
        )
        config.ckpt_path = None
        config.model.new_head = None  # which was for training: these weights have theirs
        weights = weights_file(config.model.weights)
        self.content = {} if weights.startswith("torchvision:") else read_source(weights, config.model.arch)[0]
        self.outputs = len(known_classes(self.content, config.model.weights)[1]) or None

    def _read_as_before(self) -> None:
        """Read image files as the run does, unless told otherwise: runs of before this option turned none."""
        options = self._options.data.get("init_args", {})
        if self.run and self.run.summary and "exif_orientation" in options and options.exif_orientation is None:
            options.exif_orientation = self.run.summary.get("exif_orientation", False)
            if self.subcommand == "fit":  # which knows its run by its data
                self.datamodule.upright = options.exif_orientation

    # -- what is built -----------------------------------------------------------------------------

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer with what every run has: rows, checkpoints, signals."""
        if self.subcommand == "fit" and not self._options.trainer.fast_dev_run:
            self._choose_run()
        config = self._get(self.config_init, "trainer")
        loggers: list[Logger] = _listed(config.logger)
        plugins = [*_listed(config.plugins), AtomicCheckpointIO()]
        if SLURMEnvironment.detect():
            plugins.append(SLURMEnvironment(auto_requeue=False))
        loggers = [self.segment.csv, *loggers] if self.segment else loggers
        callbacks = self._callbacks(config)
        try:
            trainer = super().instantiate_trainer(
                **kwargs,
                logger=loggers or False,
                plugins=plugins,
                callbacks=callbacks,
                enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
                enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
            )
        except (TypeError, ValueError, RuntimeError, MisconfigurationException) as error:
            named = [
                f"trainer.{name}={value}" for name, value in config.items() if re.search(rf"\b{name}\b", str(error))
            ]
            given = f"\ngiven: {', '.join(named)}" if named else ""
            raise UserError(f"the trainer does not take its options: {error}{given}") from error
        self._refuse_built(trainer, config.precision)
        if self.subcommand != "fit":
            say_precision(trainer)
        # Gradients lie where they are reduced, so that no second copy of them is made or kept.
        ddp_options(trainer).setdefault("gradient_as_bucket_view", True)
        return trainer

    def _refuse_built(self, trainer: Trainer, precision: Any) -> None:
        """Refuse a Trainer that would not do what is asked for."""
        if self.subcommand == "fit" and str(precision).startswith("16") and trainer.precision == "bf16-mixed":
            raise UserError(
                f"trainer.precision={precision} is for GPUs, and here a CPU trains, for which Lightning would "
                "take bf16-mixed\nGive trainer.precision bf16-mixed where that is meant, or leave it out."
            )
        if forks(trainer):
            given = self._options.trainer.strategy
            raise UserError(
                f"trainer.strategy={getattr(given, 'class_path', given)} forks or spawns its processes, and what they "
                "train or find would be lost\nLeave it out, or use --trainer.strategy ddp, which starts each anew."
            )
        if ddp_options(trainer).get("static_graph") and trainer.accumulate_grad_batches > 1:
            raise UserError(
                f"trainer.strategy.static_graph=True fails within torch where gradients are accumulated, over "
                f"{trainer.accumulate_grad_batches} batches here\nLeave it, or trainer.accumulate_grad_batches, out."
            )

    def _callbacks(self, config: Any) -> list[Callback]:
        """Return the callbacks that are given, and behind them the command's own."""
        callbacks: list[Callback] = _listed(config.callbacks)
        if self.subcommand == "fit":
            self._check_callbacks(config, self.model)
        bar = config.enable_progress_bar is not False and sys.stdout.isatty()
        if bar and not any(isinstance(callback, ProgressBar) for callback in callbacks):
            callbacks.append(Bar())
        if self.subcommand == "predict":
            if not (self._options.output or self.run):
                raise UserError("predict without --run_dir needs a place to write to: give --output FILE.csv")
            check_output(self._options.output)
            callbacks.append(PredictionWriter(self._predictions))
            if self._options.embeddings:
                check_output(self._options.embeddings, "--embeddings")
                callbacks.append(embeddings(self.model, Path(self._options.embeddings)))
        if self.segment:
            keep_apart(callbacks, self.segment.run)
            for recording in (one for one in callbacks if isinstance(one, GradientFlow)):
                recording.folder = self.segment.run.evaluations
            callbacks += [*self.segment.callbacks(), Findings(self.segment.run.directory)]
        return callbacks

    def _check_callbacks(self, built: Any, model: ImageClassifier) -> None:
        check_callbacks(
            _listed(built.callbacks),
            model,
            self._options.trainer.check_val_every_n_epoch,
            logged=bool(_listed(built.logger)) or Wandb(**self._options.wandb.as_dict()).asked_mode() != "disabled",
        )
        check_recording(_listed(built.callbacks), model)

    def _predictions(self, rows: int) -> Path:
        """Return where so many predictions go."""
        if self._options.output:
            return Path(self._options.output).expanduser()
        assert self.run
        lines = say_differences(self.run, self.datamodule, load_config(self.run.config), self.given)
        images = {"evaluated": rows, "of": self.datamodule.n_samples("test")}
        return self.run.evaluations / f"{file_name('test', 'predictions', images, lines)}.csv"

    # -- what is done ------------------------------------------------------------------------------

    def fit(self, model: ImageClassifier, datamodule: DataModule, ckpt_path: str | None = None, **_: Any) -> None:
        """Train; a trial run (fast_dev_run) leaves no run directory."""
        if self.segment:
            wandb = self._get(self.config_init, "wandb")
            self.segment.fit(self.trainer, model, datamodule, wandb, ckpt_path)
        else:
            check(model, datamodule, self.trainer)
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
        check_use(self.content, self._options.model.weights, datamodule, "test")
        self.trainer.predict(model, datamodule=datamodule, return_predictions=False)

    def _evaluate(self, model: ImageClassifier, data: DataModule, split: registry.Split) -> None:
        trained = load_config(self.run.config) if self.run else None
        evaluate(
            self.trainer,
            model,
            data,
            split,
            protocols=choose(self._options.protocol, self._options.average),
            weights=self._options.model.weights,
            save=self._options.save,
            images=self._options.recalibrate,
            content=self.content,
            run=self.run,
            config=self.given,
            trained=trained,
        )


def _listed(given: Any) -> list[Any]:
    """Return one or several of what a Trainer takes as a list; of a logger, true and false are none in particular."""
    return list(given) if isinstance(given, list) else [] if isinstance(given, bool | None) else [given]


def fingerprint(model: ImageClassifier, data: DataModule) -> Fingerprint:
    """Return what determines a result and is no option's value: data and starting weights, by content."""
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        data.prepare_data()
    return {"data": cast(Content, data.content()), "weights": model.weights_digest}


def devices(trainer: Any) -> int:
    """Return the number of devices on a node that a Trainer with these options would use."""
    if isinstance(trainer.devices, list):
        return len(trainer.devices)
    on_gpu = trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if str(trainer.devices) in ("auto", "-1"):
        return torch.cuda.device_count() if on_gpu else 1
    listed = [part for part in str(trainer.devices).split(",") if part]
    return len(listed) if len(listed) > 1 or not listed[0].isdigit() else int(listed[0])
