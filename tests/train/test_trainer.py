"""ImageClassifier in a Trainer that is not the command line's, on anybody's data."""

import csv
import json
import time
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
    StochasticWeightAveraging,
    Timer,
)
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from reslightning import ImageClassifier, load
from reslightning.cli.quiet import BY_DESIGN
from reslightning.errors import UserError
from reslightning.train.optim import Optim, Schedule
from tests.conftest import assert_same_bits
from tests.small import Thumbnails

pytestmark = pytest.mark.filterwarnings(
    *(f"ignore:{message}" for message in BY_DESIGN), "ignore:.*have no `val_dataloader`"
)
NAMES = {f"val/{name}" for name in ("loss", "top1", "top5", "balanced", "calibration", "n_samples")}


def pictures(
    count: int = 60, kind: torch.dtype = torch.float32, classes: int = 10
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images [count, 3, 8, 8] that show their labels [count], of uneven classes."""
    random = np.random.default_rng(count)
    labels = torch.from_numpy(np.minimum(random.geometric(0.3, count), 10) - 1)
    images = torch.from_numpy(random.integers(0, 100, (count, 3, 8, 8), dtype=np.uint8))
    images[:, 0] += (labels * 15).to(torch.uint8)[:, None, None]
    return (images if kind == torch.uint8 else images.to(kind) / 255), labels


def loader(*columns: torch.Tensor, batch: int = 20) -> DataLoader:
    return DataLoader(TensorDataset(*columns), batch_size=batch)


def small(**options) -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier("resnet8", schedule=Schedule(name="cosine"), **options)


def quiet(folder: Path, **options) -> Trainer:
    """Return a Trainer that says and keeps nothing, but for what is asked for."""
    usual = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    return Trainer(**{"accelerator": "cpu", "max_epochs": 2, "default_root_dir": folder, **usual, **options})


def by_hand(probability: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Return what is counted of answers, by numpy."""
    guesses, truth = probability.numpy().argmax(1), labels.numpy()
    five = np.argsort(-probability.numpy(), 1, kind="stable")[:, :5]
    recalls = [(guesses == truth)[truth == k].mean() for k in np.unique(truth)]
    found = {"top1": (guesses == truth).mean(), "top5": (five == truth[:, None]).any(1).mean()}
    return found | {"balanced": np.mean(recalls), "n_samples": len(truth)}


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
@pytest.mark.parametrize("indexed", [False, True])
def test_any_loader_is_trained_evaluated_and_predicted(tmp_path, kind, indexed):
    images, labels = pictures(kind=kind)
    data = loader(images, labels, *([torch.arange(60)] if indexed else []), batch=17)
    model, trainer = small(), quiet(tmp_path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.fit(model, data, data)
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert trainer.global_step == 8  # of 60 samples in batches of 17: four an epoch
    (found,) = trainer.validate(model, data, verbose=False)
    answers = trainer.predict(model, data)
    probability = torch.cat([answer["probability"] for answer in answers])
    assert found.keys() == NAMES
    for name, value in by_hand(probability, labels).items():
        assert found[f"val/{name}"] == value, name
    assert ("index" in answers[0]) == indexed
    (tested,) = trainer.test(model, data, verbose=False)
    assert {name.replace("test/", "val/"): value for name, value in tested.items()} == found
    bare = trainer.predict(model, DataLoader(images, batch_size=17))
    assert torch.equal(torch.cat([answer["probability"] for answer in bare]), probability)


def test_the_schedule_runs_over_the_loader_s_steps(tmp_path):
    rates = []

    class Note(Callback):
        def on_train_batch_end(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    options = {"accumulate_grad_batches": 2, "max_epochs": 3, "callbacks": [Note()]}
    quiet(tmp_path, **options).fit(small(optim=Optim(lr=0.2)), loader(*pictures(), batch=10))
    assert len(rates) == 18  # two batches a step, three steps an epoch; a step's rate is seen behind it
    assert rates[1::2] == pytest.approx([0.1 * (1 + np.cos(np.pi * step / 9)) for step in range(1, 10)])


class Somebody_s(lightning.LightningDataModule):  # noqa: N801
    """Data that says by what its bytes are normalised."""

    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)

    def val_dataloader(self):
        return loader(*pictures(kind=torch.uint8))

    train_dataloader = test_dataloader = predict_dataloader = val_dataloader


def test_bytes_are_normalised_as_the_data_module_says_and_the_checkpoint_remembers(tmp_path):
    model, trainer = small(), quiet(tmp_path)
    trainer.fit(model, datamodule=Somebody_s())
    (found,) = trainer.validate(model, datamodule=Somebody_s(), verbose=False)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    images, labels = pictures(kind=torch.uint8)
    mean, std = (torch.tensor(value)[:, None, None] for value in (Somebody_s.mean, Somebody_s.std))
    floats = loader((images / 255 - mean) / std, labels)
    (same,) = quiet(tmp_path).validate(model, floats, verbose=False)
    assert same == pytest.approx(found, rel=1e-5)
    again = ImageClassifier.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    (kept,) = quiet(tmp_path).validate(again, loader(images, labels), verbose=False)
    assert kept == found


def test_a_run_s_network_is_evaluated_as_by_the_command_line(cli, finished, tmp_path):
    run = finished(cli)
    assert cli(f"validate --run_dir {run}").status == 0
    record = (run / "evaluations" / "val-center.json").read_text()
    (found,) = quiet(tmp_path).validate(load(run), datamodule=Thumbnails(batch_size=256), verbose=False)
    metrics = json.loads(record)["metrics"]
    assert found == metrics


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_training_goes_on_within_an_epoch_to_the_same_bits(tmp_path):
    def train(folder, **options):
        model = small()
        keep = ModelCheckpoint(tmp_path / folder, filename="{step}", every_n_train_steps=7, save_top_k=-1)
        trainer = quiet(tmp_path, callbacks=[keep], enable_checkpointing=True)
        trainer.fit(model, datamodule=Thumbnails(batch_size=256), weights_only=True, **options)
        return model.state_dict(), model.metrics

    whole, last = train("kept")
    again, same = train("again", ckpt_path=tmp_path / "kept" / "step=7.ckpt")
    assert_same_bits(whole, again)
    assert last == same


def test_callbacks_see_their_own_epoch_s_numbers(tmp_path):
    """Not those of the epoch before: Lightning asks callbacks before the module."""
    seen = []

    class Look(Callback):
        def on_validation_epoch_end(self, trainer, module):
            seen.append(("val/loss", dict(trainer.callback_metrics)))

        def on_train_epoch_end(self, trainer, module):
            seen.append(("train/loss", dict(trainer.callback_metrics)))

    data, logger = loader(*pictures()), CSVLogger(tmp_path, "logs", "")
    quiet(tmp_path, callbacks=[Look()], logger=logger, num_sanity_val_steps=0).fit(small(), data, data)
    assert [name for name, *_ in seen] == ["val/loss", "train/loss"] * 2
    for name in ("val/loss", "train/loss"):
        assert [found[name].item() for of, found in seen if of == name] == [row[name] for row in logged(tmp_path, name)]


class Halve(Callback):
    """Halve the rate where a metric does not get better, as ReduceLROnPlateau does."""

    def __init__(self):
        self.seen, self.halved = [], 0

    def on_validation_end(self, trainer, module):
        if trainer.sanity_checking:
            return
        self.seen.append(trainer.callback_metrics["val/loss"].item())
        if len(self.seen) > 1 and self.seen[-1] >= min(self.seen[:-1]):
            self.halved += 1


def test_callbacks_do_their_work(tmp_path, capsys):
    data = loader(*pictures())
    kept = ModelCheckpoint(tmp_path / "kept", monitor="val/top1", mode="max", filename="best", save_last=True)
    timer, halve = Timer(), Halve()
    logger = CSVLogger(tmp_path, "logs", "")
    callbacks = [kept, LearningRateMonitor("step"), timer, halve, RichProgressBar()]
    trainer = quiet(tmp_path, callbacks=callbacks, logger=logger, log_every_n_steps=1, enable_checkpointing=True,
                    enable_progress_bar=True)  # fmt: skip
    model = small()
    trainer.fit(model, data, data)
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert kept.best_model_score == max(row["val/top1"] for row in logged(tmp_path))
    rates = [row["lr-SGD"] for row in logged(tmp_path, "lr-SGD")]
    assert rates == pytest.approx([0.05 * (1 + np.cos(np.pi * step / 6)) for step in range(6)])
    assert timer.time_elapsed("train") > 0
    assert halve.seen == [row["val/loss"] for row in logged(tmp_path)]
    assert "Epoch 1/1" in capsys.readouterr().out
    best = ImageClassifier.load_from_checkpoint(kept.best_model_path, weights_only=True)
    (found,) = quiet(tmp_path).validate(best, data, verbose=False)
    assert found["val/top1"] == kept.best_model_score


def logged(folder: Path, name: str = "val/loss") -> list[dict[str, float]]:
    """Return CSVLogger's rows that have a metric."""
    with next(folder.rglob("metrics.csv")).open(newline="") as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [row for row in rows if name in row]


def test_training_stops_early_by_what_is_monitored(tmp_path):
    data = loader(*pictures())
    stop = EarlyStopping("val/balanced", mode="max", stopping_threshold=0.0)
    trainer = quiet(tmp_path, max_epochs=5, callbacks=[stop])
    trainer.fit(small(), data, data)
    assert trainer.current_epoch == 1
    slow = Timer({"milliseconds": 1})
    trainer = quiet(tmp_path, max_epochs=50, callbacks=[slow])
    started = time.monotonic()
    trainer.fit(small(), data, data)
    assert trainer.current_epoch <= 1
    assert time.monotonic() - started < 20


def test_weights_are_averaged_and_rates_are_found(tmp_path):
    data = loader(*pictures())
    average, model = StochasticWeightAveraging(0.05, swa_epoch_start=1, annealing_epochs=1), small()
    quiet(tmp_path, max_epochs=3, callbacks=[average]).fit(model, data, data)
    assert model.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.05)
    data = loader(*pictures(), batch=5)
    finder = LearningRateFinder(num_training_steps=8, attr_name="rate")
    model.rate = 0.1
    quiet(tmp_path, max_epochs=1, callbacks=[finder], enable_checkpointing=True).fit(model, data, data)
    assert len(finder.optimal_lr.results["lr"]) >= 8


@pytest.mark.parametrize("make", [CSVLogger, TensorBoardLogger, WandbLogger])
def test_loggers_get_every_metric(tmp_path, make, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger("name", tmp_path, mode="offline") if make is WandbLogger else make(tmp_path, "name")
    data = loader(*pictures())
    model = small()
    quiet(tmp_path, logger=logger, log_every_n_steps=1).fit(model, data, data)
    wanted = {*NAMES, "train/loss", "train/top1", "lr", "grad_norm", "samples"}
    if make is CSVLogger:
        assert wanted <= {name for row in logged(tmp_path, "epoch") for name in row}
        assert logged(tmp_path)[-1]["val/loss"] == model.metrics["val/loss"]  # in full precision
    elif make is TensorBoardLogger:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(logger.log_dir)
        events.Reload()
        assert wanted <= set(events.Tags()["scalars"])
        assert [event.value for event in events.Scalars("val/n_samples")] == [60, 60]
    else:
        found = dict(logger.experiment.summary)
        assert wanted <= found.keys()
        assert found["val/top1"] == model.metrics["val/top1"]
        logger.experiment.finish()
        (file,) = tmp_path.rglob("run-*.wandb")
        deadline = time.monotonic() + 20  # W&B's service writes the file, and may do so just behind finish()
        while b"val/balanced" not in file.read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.02)


class Endless(IterableDataset):
    def __iter__(self):
        images, labels = pictures(20)
        yield from zip(images, labels, strict=True)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda i, y: loader(i, y + 5), "there are labels from 5 to 1"),
        (lambda i, y: loader(i, y - 1), "there are labels from -1 to"),
        (lambda i, y: loader(i, y.float()), "labels are float32 [20]; allowed: one whole number for each of 20 images"),
        (lambda i, y: loader(i, y[:, None]), "labels are int64 [20, 1]"),
        (lambda i, y: loader(i[:, :1], y), "images are float32 [20, 1, 8, 8]; allowed: [B, 3, H, W]"),
        (lambda i, y: loader(i.to(torch.int32), y), "images are int32 [20, 3, 8, 8]; allowed: uint8"),
        (lambda i, y: DataLoader([{"x": a, "y": b} for a, b in zip(i, y, strict=True)]), "got a dict with x, y"),
        (lambda i, y: loader(i, y, y, y), "takes batches of (images, labels) or (images, labels, indices)"),
        (lambda i, y: DataLoader(i), "got float32 [1, 3, 8, 8]"),
        (lambda i, y: DataLoader(Endless(), batch_size=4), "the training loader has no length"),
    ],
)
def test_what_cannot_be_trained_on_is_said(tmp_path, data, words):
    with pytest.raises(UserError) as raised:
        quiet(tmp_path).fit(small(), data(*pictures()))
    assert words in str(raised.value)


def test_a_training_counts_nothing_of_one_before_it_that_broke_off(tmp_path):
    """In a notebook the same module is trained again once its labels are mended, or after Ctrl-C."""
    images, labels = pictures()
    model, fresh = small(), small()
    with pytest.raises(UserError, match="there are labels"):
        quiet(tmp_path).fit(model, loader(images, labels + 5))
    for one in (model, fresh):
        quiet(tmp_path).fit(one, loader(images, labels))
    assert model.metrics == fresh.metrics
    assert model.metrics["samples"] == 120
    quiet(tmp_path).fit(model, loader(images, labels))
    assert model.metrics["samples"] == 120


def test_a_loader_without_length_is_trained_with_a_limit(tmp_path):
    trainer = quiet(tmp_path, limit_train_batches=3)
    trainer.fit(small(), DataLoader(Endless(), batch_size=4))
    assert trainer.global_step == 6


def test_labels_outside_the_classes_are_no_evaluation(tmp_path):
    images, labels = pictures()
    with pytest.raises(UserError, match=r"there are labels from 0 to [4-9]; allowed: 0 to 3"):
        quiet(tmp_path).validate(small(num_classes=4), loader(images, labels), verbose=False)


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        (EarlyStopping("val/los"), "did you mean 'val/loss'"),
        (ModelCheckpoint(monitor="val_top1"), "did you mean 'val/top1'"),
        (EarlyStopping("accuracy"), "there is no such metric"),
    ],
)
def test_a_metric_that_nobody_logs_is_refused_before_training(tmp_path, callback, words):
    with pytest.raises(UserError, match=words):
        quiet(tmp_path, callbacks=[callback], enable_checkpointing=True).fit(small(), loader(*pictures()))


def test_outside_of_a_trainer(tmp_path):
    model = small()
    with pytest.raises(UserError, match="is in no Trainer"):
        model.training_step(next(iter(loader(*pictures()))), 0)
    with pytest.raises(UserError, match="is no run directory"):
        load(tmp_path)


def test_what_other_samplers_lose_is_said_once(tmp_path, caplog):
    caplog.set_level("INFO")
    data, model = loader(*pictures()), small()
    trainer = quiet(tmp_path)
    trainer.fit(model, data, data)
    trainer.validate(model, data, verbose=False)
    assert caplog.text.count("the data is no module of reslightning.data") == 1
    caplog.clear()
    quiet(tmp_path).validate(small(), datamodule=Thumbnails(), verbose=False)
    assert "no module of reslightning.data" not in caplog.text
