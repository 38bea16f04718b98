"""The LightningModule: loss, exact metrics and optimizer wiring around a network; no layers."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from reslightning.data.base import DataModule
from reslightning.data.progress import batches_per_epoch, evaluates_everything
from reslightning.errors import TrainingError, UserError
from reslightning.models.architectures import Shortcut, Version
from reslightning.models.resnet import build_model
from reslightning.models.weights import load_weights, read_checkpoint
from reslightning.ranges import Range, check_names, check_values, plain
from reslightning.run.record import evaluation_checkpoint, weights_file
from reslightning.train.optim import Optim, Schedule, keep_values, make_factor, make_optimizer, options, values
from reslightning.train.restored import seen

TOP5_FROM = 6  # classes; of five, every guess is among the top five

# What is summed over samples, and kept as float64: sums are exact where means of means are not.
LOSS, TOP1, TOP5, COUNT, FIRST_BAD, NORM, STEPS = range(7)


class ImageClassifier(LightningModule):
    """Trains and evaluates a residual network, or its plain counterpart, as an image classifier.

    Args:
        arch: a network of `reslightning models`, or resnetD or plainD of any depth D = 6n + 2.
        num_classes: outputs; the command line takes it from the data.
        shortcut: A (no parameters), B (projection where the shape changes), C (projections
            everywhere); none given means the network's own (arXiv:1512.03385, Sec. 4.1).
        version: v1, v1.5 (stride in the 3x3) or v2 (pre-activation); none given means the network's own.
        zero_init_residual: start the last scale of every block at zero (arXiv:1706.02677).
        weights: torchvision:NAME, a run directory, a checkpoint or a state dict file to start from.
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
    """

    # The step of another run's checkpoint that training goes on from, with that one's weights and moments alone.
    goes_on_from: int | None = None
    _samples_before = 0  # trained in the epochs before

    # The last validation's samples [N, 5] on the first process: index, label, guess, its probability, loss.
    samples: Tensor | None = None

    # Of a run's network, see ``from_run``.
    class_names: list[str] | None = None
    image_size: int | None = None
    eval_resize: int | None = None
    eval_size: int | None = None
    interpolation: str | None = None

    def __init__(
        self,
        arch: str = "resnet20",
        num_classes: Annotated[int, Range("1 or more")] = 10,
        shortcut: Shortcut | None = None,
        version: Version | None = None,
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
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        check_values(ImageClassifier, given, "model")
        if new_head and weights is None:
            raise UserError("model.new_head needs model.weights to take the rest from")
        self.arch, self.num_classes = arch, num_classes
        self.optim, self.schedule = options(Optim, optim), options(Schedule, schedule)
        # A checkpoint holds plain values only, and is rebuilt from them without its first weights.
        kept = plain(given | {"optim": asdict(self.optim), "schedule": asdict(self.schedule)})
        self.save_hyperparameters({k: v for k, v in kept.items() if k not in ("weights", "new_head")}, logger=False)
        self.model = build_model(
            arch, num_classes=num_classes, shortcut=shortcut, version=version, zero_init_residual=zero_init_residual
        )
        self.weights_digest = self._load(weights, bool(new_head))  # of what training starts from
        self._frozen = self._freeze(frozen_stages or 0)
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        # The epoch's metrics by name, in full precision, for whoever writes them down.
        self.metrics: dict[str, float] = {}
        self._stepped: dict[str, float] = {}  # the optimizer's values at its last step
        self._train_sums = _zeros(torch.device("cpu"))
        self._eval_sums = _zeros(torch.device("cpu"))
        self._samples: list[Tensor] = []

    @classmethod
    def from_run(cls, run: str | Path) -> Self:
        """Return a run's network as an evaluation would use it: in evaluation mode, on the CPU.

        Its weights are those of best.ckpt where validation images were held out, else of last.ckpt, and averaged ones
        where the run averages. It has ``class_names``; ``mean`` and ``std`` [3], by which images in [0, 1] are
        normalised; and, in pixels, ``image_size``, ``eval_resize``, ``eval_size`` and ``interpolation``, see
        ``DataModule.sizes``. What an older run does not say is None, and warned of.

        Args:
            run: the run directory.

        Raises:
            UserError: it is none, has no checkpoint yet, or was made by a newer version.
        """
        check_values(ImageClassifier.from_run, {"run": run}, "")
        directory = Path(run).expanduser()
        file = evaluation_checkpoint(directory)
        checkpoint = read_checkpoint(file)
        if not isinstance(given := checkpoint.get("hyper_parameters"), dict):
            raise UserError(f"{file} is no checkpoint of a training: it does not say of which network")
        check_names(cls, given, "model")
        model = cls(**given, weights=str(file)).eval()
        for name, value in seen(directory, checkpoint).items():
            setattr(model, name, torch.tensor(value) if name in ("mean", "std") and value is not None else value)
        return model

    def _load(self, weights: str | None, new_head: bool) -> str | None:
        if weights is None:
            return None
        network = {name: self.hparams[name] for name in ("shortcut", "version")}
        return load_weights(self.model, weights_file(str(weights)), self.arch, new_head=new_head, **network)

    def _freeze(self, stages: int) -> list[nn.Module]:
        names: list[str] = self.model.stages  # type: ignore[assignment]
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
        decay = self.hparams["ema_decay"]
        return [] if decay is None else [EMAWeightAveraging(decay=decay)]

    def setup(self, stage: str) -> None:
        """Compile the network in place, so that parameter names stay."""
        if self.hparams["compile"]:
            self.model.compile()

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images [B, 3, H, W] to logits [B, num_classes]."""
        images = images.to(self.dtype)
        if self.hparams["channels_last"]:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.model(images)

    # -- training ------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """Return the optimizer, and the schedule updated at every step."""
        data, trainer = self._data(), self.trainer
        accumulated = trainer.accumulate_grad_batches
        batches = batches_per_epoch(trainer, data.steps_per_epoch * accumulated)
        self.factor = make_factor(self.schedule, -(-batches // accumulated), trainer.max_epochs or 0)
        self.peak_lr = self.optim.peak(data.batch_size)
        optimizer = make_optimizer(self.model, self.optim, self.peak_lr)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        if self.goes_on_from is not None:
            optimizer.register_load_state_dict_pre_hook(keep_values)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.factor, (self.goes_on_from or 0) - 1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Bring the sums, new or from a checkpoint, to the device."""
        self._train_sums = self._train_sums.to(self.device, _accumulator(self.device))
        self.on_train_epoch_start()  # which Lightning leaves out where it goes on within an epoch

    def on_train_epoch_start(self) -> None:
        """See that the last epoch is validated, whichever others are."""
        if self.trainer.current_epoch + 1 == self.trainer.max_epochs:
            self.trainer.check_val_every_n_epoch = 1

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean loss of a micro-batch, whose labels may be targets [B, num_classes]."""
        images, labels, _ = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.hparams["label_smoothing"])
        with torch.no_grad():
            hard = labels if labels.ndim == 1 else labels.argmax(1)  # of a mixed image, what there is most of
            _add(self._train_sums, loss.detach() * len(labels), logits, hard)
            bad = torch.where(torch.isfinite(loss), torch.inf, float(self.trainer.global_step))
            self._train_sums[FIRST_BAD] = torch.minimum(self._train_sums[FIRST_BAD], bad)
        # On a GPU each look costs a wait for the device.
        every = 1 if self.device.type == "cpu" else 50
        if (batch_idx + 1) % every == 0:
            self._check_finite()
        return loss

    def _check_finite(self) -> None:
        first_bad = self._reduce(self._train_sums[FIRST_BAD], "min").item()
        if first_bad != torch.inf:
            raise TrainingError(
                f"the training loss is not finite at epoch {self.trainer.current_epoch}, step {int(first_bad)}: "
                f"{self.trainer.current_epoch} epochs are finished and the last checkpoint is from before it\n"
                "Lower model.optim.lr, add model.schedule.warmup or trainer.gradient_clip_val, or use "
                "trainer.precision bf16-mixed or 32-true."
            )

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Note the step's rate, and add the length of its gradient, before it is clipped."""
        self._stepped = values(optimizer)
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        self._train_sums[NORM] += nn.utils.get_total_norm(gradients)
        self._train_sums[STEPS] += 1

    def on_train_epoch_end(self) -> None:
        """Turn the epoch's sums over all processes into metrics."""
        self._check_finite()
        sums = self._reduce(self._train_sums, "sum").tolist()
        self._train_sums = _zeros(self.device)
        self._samples_before += round(sums[COUNT])
        if not self._stepped:  # an older version's checkpoint behind the epoch's last step
            self._stepped = {"lr": self.peak_lr * self.factor(self.trainer.global_step - 1)}
        self._report(
            {
                "train/loss": sums[LOSS] / sums[COUNT],
                "train/top1": sums[TOP1] / sums[COUNT],
                "samples": self._samples_before,
                **self._stepped,
                "grad_norm": sums[NORM] / sums[STEPS] if sums[STEPS] else math.nan,
            }
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep every process's sums, so that an interrupted epoch's metrics stay exact.

        A training that has failed is not kept: it could only fail again.
        """
        self._check_finite()
        gathered = self.all_gather(self._train_sums)
        assert isinstance(gathered, Tensor)
        checkpoint["train_sums"] = gathered.reshape(-1, STEPS + 1).cpu()
        checkpoint["samples_trained"], checkpoint["stepped"] = self._samples_before, self._stepped
        checkpoint["last_validation"] = self.samples
        data = self._data()
        checkpoint["class_names"], checkpoint["class_ids"] = list(data.class_names), list(data.class_ids)
        checkpoint["normalisation"] = {"mean": data.mean.tolist(), "std": data.std.tolist()}
        checkpoint["sizes"] = data.sizes
        if self.trainer.is_global_zero:
            checkpoint["fingerprint"] = {"data": data.content()["digest"], "weights": self.weights_digest}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take this process's sums back; at another world size the first takes them all."""
        if not self.attached:
            return
        kept = checkpoint["train_sums"]
        kept = F.pad(kept, (0, STEPS + 1 - kept.shape[1]))  # of an older version
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        if len(kept) == world_size:
            self._train_sums = kept[rank]
        elif rank == 0:
            self._train_sums = kept.sum(0)
            self._train_sums[FIRST_BAD] = kept[:, FIRST_BAD].min()
        self._take_counts(checkpoint, int(kept[:, COUNT].sum()))

    def _take_counts(self, checkpoint: dict[str, Any], within: int) -> None:
        """Go on counting, ``within`` samples of the epoch; older versions took whole batches for granted."""
        steps = checkpoint["global_step"]
        self._samples_before = checkpoint.get("samples_trained", steps * self._data().batch_size - within)
        self._stepped = checkpoint.get("stepped", {})
        if self.goes_on_from is None:
            self.samples = checkpoint.get("last_validation")  # a training that failed behind it has findings to make
        else:
            checkpoint["lr_schedulers"] = []  # the schedule is this run's
            # Of callbacks only what an average is at: another run's best values, waits and speed are not this one's.
            states = checkpoint["callbacks"].items()
            checkpoint["callbacks"] = {key: state for key, state in states if "latest_update_step" in state}

    # -- evaluation ----------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Start the sums anew."""
        self._eval_sums = _zeros(self.device)
        self._samples = []

    def on_test_epoch_start(self) -> None:
        """Start the sums anew."""
        self._eval_sums = _zeros(self.device)

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        """Add a batch's loss and hits to the sums."""
        self._evaluate(batch)

    def test_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        """Add a batch's loss and hits to the sums."""
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        """Turn the sums over all processes into metrics."""
        self._finish_evaluation("val")

    def on_test_epoch_end(self) -> None:
        """Turn the sums over all processes into metrics."""
        self._finish_evaluation("test")

    def predict_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return sample indices [B], labels [B] and probabilities [B, num_classes]."""
        images, labels, indices = batch
        return {"index": indices, "label": labels, "probability": self.evaluated(images).softmax(1)}

    def _evaluate(self, batch: tuple[Tensor, Tensor, Tensor]) -> None:
        images, labels, indices = batch
        logits = self.evaluated(images)
        losses = F.cross_entropy(logits, labels, reduction="none")
        _add(self._eval_sums, losses.sum(), logits, labels)
        if self._keeps_samples:
            surest = logits.softmax(1).max(1)
            self._samples.append(torch.stack([indices, labels, surest.indices, surest.values, losses], 1))

    @property
    def _keeps_samples(self) -> bool:
        """Whether this is a training's validation, which may turn out to be the last."""
        return self.trainer.state.fn == TrainerFn.FITTING and evaluates_everything(self.trainer)

    def gather_samples(self) -> None:
        """Bring the last validation's samples of all processes, which may have one more or less, to the first one."""
        if not self._keeps_samples:
            return
        mine = torch.cat([torch.empty(0, 5, device=self.device), *self._samples]).double().cpu()
        parts = [mine]
        if self.trainer.world_size > 1:
            parts = [mine] * self.trainer.world_size
            dist.all_gather_object(parts, mine)
        everything = torch.cat(parts)
        self.samples, self._samples = everything[everything[:, 0].argsort()], []

    def evaluated(self, images: Tensor) -> Tensor:
        """Map normalised images [B, 3, H, W] to the logits [B, num_classes] that an evaluation counts, float32."""
        logits = self(images).float()
        return (logits + self(images.flip(-1)).float()) / 2 if self.hparams["test_flip"] else logits

    def protocol(self, data: DataModule) -> str:
        """Return how images are evaluated, in a word: the data's part of it, and flip."""
        return data.protocol + ("-flip" if self.hparams["test_flip"] else "")

    def _finish_evaluation(self, split: str) -> None:
        if self.trainer.sanity_checking:
            return
        sums = self._reduce(self._eval_sums, "sum").tolist()
        count = round(sums[COUNT])
        expected = self._data().n_samples("val" if split == "val" else "test")
        if evaluates_everything(self.trainer) and count != expected:
            raise TrainingError(f"the {split} part has {expected} samples, but {count} were evaluated")
        metrics = {f"{split}/loss": sums[LOSS] / count, f"{split}/top1": sums[TOP1] / count}
        if self.num_classes >= TOP5_FROM:
            metrics[f"{split}/top5"] = sums[TOP5] / count
        self._report(metrics | {f"{split}/n_samples": count})

    # -- both ----------------------------------------------------------------------------------

    def _report(self, metrics: dict[str, float]) -> None:
        self.metrics.update(metrics)
        # For callbacks that monitor a metric, and the progress bar; files get the full precision.
        self.log_dict(metrics, logger=False)

    @property
    def attached(self) -> bool:
        """Whether a Trainer runs this module, which ``load_from_checkpoint`` does without."""
        try:
            return self.trainer is not None
        except RuntimeError:
            return False

    def _reduce(self, value: Tensor, operation: str) -> Tensor:
        reduced = self.trainer.strategy.reduce(value.clone(), reduce_op=operation)
        assert isinstance(reduced, Tensor)
        return reduced

    def _data(self) -> DataModule:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, DataModule):
            raise UserError("ImageClassifier trains on a reslightning.data module: pass it as datamodule")
        return data


def _accumulator(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64


def _zeros(device: torch.device) -> Tensor:
    sums = torch.zeros(STEPS + 1, dtype=_accumulator(device), device=device)
    sums[FIRST_BAD] = torch.inf
    return sums


def _add(sums: Tensor, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
    """Add a batch's summed loss and its hits to ``sums``, without waiting for the device."""
    guesses = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = guesses == labels[:, None]
    sums[LOSS] += loss
    sums[TOP1] += hits[:, 0].sum()
    sums[TOP5] += hits.sum()
    sums[COUNT] += len(labels)
