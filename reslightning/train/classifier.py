"""The LightningModule: loss, sums over an epoch and optimizer wiring around a network; no layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Self

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import get_ema_avg_fn

from reslightning.data.progress import batches_per_epoch
from reslightning.errors import DivergedError, UserError
from reslightning.models.architectures import Norm, Shortcut, Version, check_size, check_trainable
from reslightning.models.checkpoint import read_checkpoint
from reslightning.models.normalization import normalisations
from reslightning.models.resnet import ResNet, build_model
from reslightning.models.weights import load_weights
from reslightning.ranges import Range, check_names, check_values, plain
from reslightning.run.record import evaluation_checkpoint, weights_file
from reslightning.train.averaging import Averaging, warmed
from reslightning.train.batches import unpack
from reslightning.train.callbacks import check_monitors
from reslightning.train.compiling import compile_for
from reslightning.train.evaluator import Evaluator
from reslightning.train.hardware import check_compiler
from reslightning.train.length import course, steps_per_epoch
from reslightning.train.metrics import TrainMetrics, check_labels, former
from reslightning.train.optim import Factor, Optim, Schedule, keep_values, make_optimizer, options, values
from reslightning.train.restored import seen


class ImageClassifier(Evaluator):
    """Trains and evaluates a residual network, or its plain counterpart, as an image classifier in any Trainer.

    Data may be a module of ``reslightning.data``, or any loader or LightningDataModule of (images, labels) or
    (images, labels, indices): images [B, 3, H, W], floats, which are taken as they are, or uint8, which are
    normalised on the device by ``mean`` and ``std`` of the data module, else of the checkpoint, else ImageNet's;
    labels [B], whole numbers. ``trainer.validate`` and ``test`` return, and every logger gets, ``val/`` or ``test/``
    with loss, top1, top5 (from six classes on), balanced, calibration (see ``EvalMetrics``) and n_samples.

    Every sample counts once, and a stopped training goes on to the same bits, by the samplers of
    ``reslightning.data``. With other data Lightning repeats some samples of an evaluation where processes would have
    unequal numbers of them, and they count twice; a training that goes on within an epoch sees some samples again
    and others not; and nothing says how many samples there should have been.

    Args:
        arch: a network of `reslightning models`, or resnetD or plainD of any depth D = 6n + 2; torchvision's VGG and
            GoogLeNet are evaluated, and not trained.
        num_classes: outputs; the command line takes it from the data.
        shortcut: A (no parameters), B (projection where the shape changes), C (projections
            everywhere); none given means the network's own (arXiv:1512.03385, Sec. 4.1).
        version: v1, v1.5 (stride in the 3x3) or v2 (pre-activation); none given means the network's own.
        norm: batch, or none: without batch normalisation, in residual networks by Fixup (arXiv:1901.09321), whose
            scalars learn at a tenth of the rate; none given means batch.
        zero_init_residual: start the last scale of every block at zero (arXiv:1706.02677).
        weights: torchvision:NAME, hf:USER/NAME, a run directory, a checkpoint or a state dict file to start from,
            other people's too; FILE#KEY of a file of several weights (FILE#model_ema).
        optim: the optimizer, or a dict of its options.
        schedule: the learning rate's course, likewise.
        label_smoothing: probability spread over all classes in training, in [0, 1).
        ema_decay: evaluate an exponential moving average of the weights with this decay in (0, 1).
        new_head: take all of ``weights`` but the final layer, which starts anew for other classes.
        frozen_stages: stages that stay as they are, from the input on: 1 is the stem and layer1, 2 is layer2
            too; none given means that all are trained.
        test_flip: average the logits of an image and its mirror image in evaluations.
        compile: compile the network with torch.compile.
        channels_last: keep images and weights in channels-last memory order, faster with bf16.
        norm_momentum: weight of a batch in batch normalisation's moving averages, in (0, 1]: torch's momentum, of which
            short trainings want more than 0.1, which none given means (KellerJordan/cifar10-airbench has 0.4).
        ema_warmup: let the average begin with short memory: behind t steps its decay is (1 + t) / (10 + t), until that
            is ema_decay (as TensorFlow's ExponentialMovingAverage with num_updates).
        activation_checkpointing: keep only what blocks are given in training, and compute again what is within them:
            where memory is short, to the same bits, in 1.4 times the time (arXiv:1604.06174).
    """

    # The step of another run's checkpoint that training goes on from, with that one's weights and moments alone.
    goes_on_from: int | None = None
    _samples_before = 0  # trained in the epochs before
    factor: Factor = staticmethod(lambda step: 1.0)  # the schedule; a loader's length is known in training only

    # Of a run's network, see ``from_run``.
    class_names: list[str] | None = None
    image_size: int | None = None
    eval_resize: int | None = None
    eval_size: int | None = None
    interpolation: str | None = None
    exif_orientation: bool | None = None

    def __init__(
        self,
        arch: str = "resnet20",
        num_classes: Annotated[int, Range("1 or more")] = 10,
        shortcut: Shortcut | None = None,
        version: Version | None = None,
        norm: Norm | None = None,
        zero_init_residual: bool = False,
        weights: str | None = None,
        optim: Optim = Optim(),  # noqa: B008 - frozen
        schedule: Schedule = Schedule(),  # noqa: B008 - frozen
        label_smoothing: Annotated[float, Range("[0, 1)")] = 0.0,
        ema_decay: Annotated[float | None, Range("(0, 1)")] = None,
        new_head: bool | None = None,
        frozen_stages: int | None = None,
        test_flip: bool | None = None,
        compile: bool = False,
        channels_last: bool = False,
        norm_momentum: Annotated[float | None, Range("(0, 1]")] = None,
        ema_warmup: bool | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__(num_classes)
        check_values(ImageClassifier, given, "model")
        self.arch = arch
        self.optim, self.schedule = options(Optim, optim), options(Schedule, schedule)
        self._check_together(given)
        # A checkpoint holds plain values only, and is rebuilt from them without its first weights.
        kept = plain(given | {"optim": asdict(self.optim), "schedule": asdict(self.schedule)})
        self.save_hyperparameters({k: v for k, v in kept.items() if k not in ("weights", "new_head")}, logger=False)
        network = ("num_classes", "shortcut", "version", "norm", "zero_init_residual")
        self.model = build_model(arch, **{name: given[name] for name in network})
        for module in normalisations(self.model).values() if norm_momentum else ():
            module.momentum = norm_momentum
        if isinstance(self.model, ResNet):
            self.model.activation_checkpointing = activation_checkpointing
        self.weights_digest = self._load(weights, bool(new_head))  # of what training starts from
        self._frozen = self._freeze(frozen_stages or 0)
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        self._stepped: dict[str, float] = {}  # the optimizer's values at its last step
        self.train_metrics = TrainMetrics(num_classes)

    def _check_together(self, given: Mapping[str, Any]) -> None:
        """Refuse options that need another one, or would not count beside it."""
        if given["new_head"] and given["weights"] is None:
            raise UserError("model.new_head needs model.weights to take the rest from")
        if given["new_head"] or given["frozen_stages"]:
            check_trainable(self.arch)
        if given["ema_warmup"] and given["ema_decay"] is None:
            raise UserError("model.ema_warmup needs an average to begin: give model.ema_decay, 0.999 say")
        if given["activation_checkpointing"] and given["compile"]:
            raise UserError(
                "model.activation_checkpointing means nothing with model.compile: the compiler itself chooses what is "
                "kept, and what is computed again\nLeave one of them out."
            )
        of_norms = {"norm_momentum": given["norm_momentum"], "optim.norm_bias_lr": self.optim.norm_bias_lr}
        for name, value in of_norms.items() if given["norm"] == "none" else ():
            if value is not None:
                raise UserError(
                    f"model.{name}={value} is of batch normalisation, and model.norm is none\nLeave one of them out."
                )

    @classmethod
    def from_run(cls, run: str | Path) -> Self:
        """Return a run's network as an evaluation would use it: in evaluation mode, on the CPU.

        Its weights are those of best.ckpt where validation images were held out, else of last.ckpt, and averaged ones
        where the run averages. It has ``class_names``; ``mean`` and ``std`` [3], by which images in [0, 1] are
        normalised; in pixels ``image_size``, ``eval_resize``, ``eval_size`` and ``interpolation``, see
        ``DataModule.sizes``; and ``exif_orientation``, whether files were turned upright. What an older run does not
        say is None, and warned of.

        Args:
            run: the run directory.

        Raises:
            UserError: it is none, has no checkpoint yet, or was made by a newer version.
        """
        check_values(ImageClassifier.from_run, {"run": run}, "")
        directory = Path(run).expanduser()
        file = evaluation_checkpoint(directory)
        return cls.restored(str(file), read_checkpoint(file), directory)

    @classmethod
    def restored(cls, weights: str, checkpoint: Mapping[str, Any], directory: Path) -> Self:
        """Return the network that a checkpoint is of, as ``from_run`` does.

        Args:
            weights: where its weights are.
            checkpoint: what is there.
            directory: the run that it is of, or else what is named in its place.

        Raises:
            UserError: the checkpoint does not say of which network it is, or with options of a newer version.
        """
        if not isinstance(given := checkpoint.get("hyper_parameters"), dict):
            raise UserError(f"{weights} is no checkpoint of a training: it does not say of which network")
        check_names(cls, given, "model")
        return cls(**given, weights=weights).having(seen(directory, checkpoint))

    def having(self, facts: Mapping[str, Any]) -> Self:
        """Say what images the network was trained to see, as ``from_run`` has it, and return it in evaluation mode."""
        for name, value in facts.items():
            is_values = name in ("mean", "std") and value is not None  # whole numbers perhaps
            setattr(self, name, torch.tensor(value, dtype=torch.float32) if is_values else value)
        return self.eval()

    def _load(self, weights: str | None, new_head: bool) -> str | None:
        if weights is None:
            return None
        network = {name: self.hparams[name] for name in ("shortcut", "version", "norm")}
        say, file = rank_zero_only(print), weights_file(str(weights))
        return load_weights(self.model, file, self.arch, new_head=new_head, say=say, **network)

    def _freeze(self, stages: int) -> list[nn.Module]:
        names: list[str] = getattr(self.model, "stages", [])
        if not 0 <= stages <= len(names):
            raise UserError(f"model.frozen_stages={stages} is out of range; allowed: 0 to {len(names)}")
        stem = ["conv1", "bn1"] if stages else []
        frozen = [getattr(self.model, name) for name in [*stem, *names[:stages]] if hasattr(self.model, name)]
        for module in frozen:
            module.requires_grad_(False).eval()
        return frozen

    def train(self, mode: bool = True) -> ImageClassifier:
        """Switch to training; frozen stages keep the statistics of their batch normalisation, too."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def configure_callbacks(self) -> list[Callback]:
        """Return the averaging of weights, if asked for."""
        decay, warms = self.hparams["ema_decay"], self.hparams["ema_warmup"]
        if decay is None:
            return []
        return [Averaging(warmed(decay) if warms else get_ema_avg_fn(decay))]

    def setup(self, stage: str) -> None:
        """Compile the network in place, so that parameter names stay, and begin a training's counts."""
        if self.hparams["compile"]:
            check_compiler(self.trainer.strategy.root_device.type)
            compile_for(self.model, 1 if self._data is None else len(self._data.training_sizes))
        if stage == "fit":
            check_trainable(self.arch)
            check_monitors(self.trainer.callbacks, self.num_classes)  # type: ignore[attr-defined]
            # What a training before left, broken off or not, is none of this one's; a checkpoint's comes behind this.
            self.train_metrics.reset()
            self._samples_before, self._stepped = 0, {}
        if self._data is not None:
            check_size(self.arch, self._data.image_size)
        super().setup(stage)

    def configure_optimizers(self) -> Any:
        """Return the optimizer, and the schedule updated at every step."""
        trainer, data = self._require_trainer(), self._data
        if data is not None:
            accumulated = trainer.accumulate_grad_batches
            batches = batches_per_epoch(trainer, data.steps_per_epoch * accumulated)
            self.factor = course(self.schedule, trainer, -(-batches // accumulated))
        elif self.optim.lr_batch is not None:
            raise UserError(
                "optim.lr_batch makes the rate grow with the batch size, which only a module of reslightning.data "
                "says\nGive the rate itself: optim.lr."
            )
        self.peak_lr = self.optim.lr if data is None else self.optim.peak(data.batch_size)
        optimizer = make_optimizer(self.model, self.optim, self.peak_lr)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        if self.goes_on_from is not None:
            optimizer.register_load_state_dict_pre_hook(keep_values)
        scheduler = LambdaLR(optimizer, lambda step: self.factor(step), (self.goes_on_from or 0) - 1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Begin the schedule where its length is that of a loader, which is known only now.

        A loader that is asked for before is built before a checkpoint's progress is restored, and goes on wrongly.
        """
        scheduler = self.lr_schedulers()
        if self._data is None and isinstance(scheduler, LambdaLR):  # no callback's, a rate finder's say
            self.factor = course(self.schedule, self.trainer, steps_per_epoch(self.trainer))
            for group in scheduler.optimizer.param_groups if self.trainer.global_step == 0 else ():
                group["lr"] = group["initial_lr"] * self.factor(0)
        self.on_train_epoch_start()  # which Lightning leaves out where it goes on within an epoch

    def on_train_epoch_start(self) -> None:
        """See that the last epoch is validated, whichever others are."""
        self._open.add("train")
        if self.trainer.current_epoch + 1 == self.trainer.max_epochs:
            self.trainer.check_val_every_n_epoch = 1

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the mean loss of a micro-batch, whose labels may be targets [B, num_classes]."""
        step = self._require_trainer().global_step
        images, labels, _ = unpack(batch, self.num_classes, mixed=True)
        logits = self(images)
        hard = labels if labels.ndim == 1 else labels.argmax(1)  # of a mixed image, what there is most of
        # A label outside the classes would end a GPU's process without a word; it is found below.
        known = labels.clamp(0, self.num_classes - 1) if labels.ndim == 1 else labels
        loss = F.cross_entropy(logits, known, label_smoothing=self.hparams["label_smoothing"])
        self.train_metrics.update(logits.detach(), hard, loss.detach(), step)
        # On a GPU each look costs a wait for the device.
        if self.device.type == "cpu" or batch_idx == 0 or (batch_idx + 1) % 50 == 0:
            self._check()
        return loss

    def _check(self) -> None:
        """Raise what is wrong with the loss or the labels of any process; every one calls it."""
        metrics = self.train_metrics
        found = torch.stack([metrics.first_bad, metrics.lowest, -metrics.highest])
        reduced = self.trainer.strategy.reduce(found.to(self.trainer.strategy.root_device), reduce_op="min")
        assert isinstance(reduced, Tensor)
        first_bad, lowest, highest = reduced.tolist()
        check_labels(lowest, -highest, self.num_classes)
        if first_bad != torch.inf:
            raise DivergedError(
                f"the training loss is not finite at epoch {self.trainer.current_epoch}, step {int(first_bad)}: "
                f"{self.trainer.current_epoch} epochs are finished and the last checkpoint is from before it\n"
                "Lower model.optim.lr, add model.schedule.warmup or trainer.gradient_clip_val, or use "
                "trainer.precision bf16-mixed or 32-true."
            )

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Note the step's rate, and add the length of its gradient, before it is clipped."""
        self._stepped = values(optimizer)
        # The optimizer's lists, as a walk over the modules takes as long as the norm itself.
        weights = (weight for group in optimizer.param_groups for weight in group["params"])
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        self.train_metrics.stepped(nn.utils.get_total_norm(gradients))

    def on_train_epoch_end(self) -> None:
        """Turn the epoch's sums over all processes into metrics."""
        if "train" not in self._open:
            return
        self._open.remove("train")
        self._check()
        found = self.train_metrics.compute()
        self.train_metrics.reset()
        self._samples_before += int(found["n_samples"])
        if not self._stepped:  # an older version's checkpoint behind the epoch's last step
            self._stepped = {"lr": self.peak_lr * self.factor(self.trainer.global_step - 1)}
        self._report(
            {
                "train/loss": found["loss"],
                "train/top1": found["top1"],
                "samples": self._samples_before,
                **self._stepped,
                "grad_norm": found["grad_norm"],
            }
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep every process's sums, so that an interrupted epoch's metrics stay exact.

        A training that has failed is not kept: it could only fail again.
        """
        self._check()
        checkpoint["train_metrics"] = self.train_metrics.kept(self._gather)
        checkpoint["samples_trained"], checkpoint["stepped"] = self._samples_before, self._stepped
        checkpoint["last_validation"] = self.samples
        data = self._data
        if data is not None or self._bytes:
            checkpoint["normalisation"] = {"mean": self.mean.tolist(), "std": self.std.tolist()}
        if data is None:
            return
        checkpoint["class_names"], checkpoint["class_ids"] = list(data.class_names), list(data.class_ids)
        checkpoint["sizes"] = data.sizes
        if self.trainer.is_global_zero:
            checkpoint["fingerprint"] = {"data": data.content()["digest"], "weights": self.weights_digest}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take this process's sums back, and the normalisation where the data says none."""
        if (said := checkpoint.get("normalisation")) and not (self.attached and self._normalises()):
            self.mean, self.std = torch.tensor(said["mean"]), torch.tensor(said["std"])
        if not self.attached or "loops" not in checkpoint:
            return
        kept = checkpoint["train_metrics"] if "train_metrics" in checkpoint else former(checkpoint["train_sums"])
        self.train_metrics.take(kept, self.trainer.global_rank, self.trainer.world_size)
        self._take_counts(checkpoint, int(kept["count"].sum()))

    def _take_counts(self, checkpoint: dict[str, Any], within: int) -> None:
        """Go on counting, ``within`` samples of the epoch; older versions took whole batches for granted."""
        if "samples_trained" in checkpoint:
            self._samples_before = checkpoint["samples_trained"]
        elif self._data is not None:
            self._samples_before = checkpoint["global_step"] * self._data.batch_size - within
        self._stepped = checkpoint.get("stepped", {})
        if self.goes_on_from is None:
            self.samples = checkpoint.get("last_validation")  # a training that failed behind it has findings to make
        else:
            checkpoint["lr_schedulers"] = []  # the schedule is this run's
            # Of callbacks only what an average is at: another run's best values, waits and speed are not this one's.
            states = checkpoint["callbacks"].items()
            checkpoint["callbacks"] = {key: state for key, state in states if "latest_update_step" in state}

    def _gather(self, value: Tensor) -> Tensor:
        gathered = self.all_gather(value.to(self.trainer.strategy.root_device))
        assert isinstance(gathered, Tensor)
        return gathered
