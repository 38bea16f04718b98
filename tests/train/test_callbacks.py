"""Lightning's callbacks by option: each does its work and keeps the run whole, or is refused before it is made."""

import csv
import json
import shlex
from pathlib import Path

import pytest

from reslightning.cli.preview import Preview
from reslightning.errors import UserError
from reslightning.train.callbacks import REFUSED
from tests.conftest import SMALL, assert_same_result, checkpoint, rows, summary
from tests.images import tree
from tests.ranks import TWO, run
from tests.train.test_preemption import STRIKE

TINY = f"{SMALL} --trainer.limit_train_batches 3"
FINDINGS = ("val-confusion.csv", "val-worst.png")


def given(name: str, **options: object) -> str:
    """Return the options that give a callback."""
    return f"--trainer.callbacks+={name} " + " ".join(
        f"--trainer.callbacks.{key} {value}" for key, value in options.items()
    )


def strike(tmp_path: Path, step: int, place: str = "train") -> str:
    return STRIKE.format(mark=tmp_path / f"mark-{step}-{place[:3]}", step=step, place=place, name="SIGTERM")


def assert_goes_on(cli, tmp_path: Path, line: str, strikes: list[tuple[int, str]], extra: tuple[str, ...] = ()) -> None:
    """Assert that a command that is stopped at each of these moments ends as one that is not, with the same files."""
    assert cli(f"{line} --run_dir reference").status == 0
    for step, place in strikes:
        run = f"stopped-{step}-{place[:3]}"
        again = f"{line} --run_dir {run} {strike(tmp_path, step, place)}"
        assert cli(again).status in (75, 0)  # what only closes a training is not interrupted
        result = cli(again)
        assert result.status == 0, result.err
        assert_same_result(tmp_path / run, tmp_path / "reference")
        assert summary(tmp_path / run)["status"] == "finished"
        for file in extra:
            assert (tmp_path / run / file).read_bytes() == (tmp_path / "reference" / file).read_bytes()
        assert files(run) == files("reference")


def files(run: str) -> set[str]:
    return {str(path.relative_to(run)) for path in Path(run).rglob("*") if path.is_file()}


def assert_whole(run: Path, epochs: int) -> None:
    """Assert that metrics.csv has one whole row an epoch and no column twice."""
    with (run / "metrics.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert len(set(header)) == len(header)
    assert [line[0] for line in lines] == [str(epoch + 1) for epoch in range(epochs)]
    assert all(row["train/loss"] and row["lr"] and row["grad_norm"] for row in rows(run))


ARGUMENTS = {
    "GradientAccumulationScheduler": {"scheduling": "'{1: 2}'"},
    "ModelPruning": {"pruning_fn": "l1_unstructured"},
    "OnExceptionCheckpoint": {"dirpath": "there"},
}


@pytest.mark.parametrize("name", [callback.__name__ for callback in REFUSED])
def test_what_a_run_cannot_take_is_refused_before_it_is_made(cli, tmp_path, name):
    result = cli(f"fit {TINY} {given(name, **ARGUMENTS.get(name, {}))}")
    assert result.status == 2
    assert f"the callback {name} is not supported: " in result.err
    assert len(result.err.splitlines()) == 2
    assert not list(tmp_path.iterdir())


MONITORS = [
    (given("EarlyStopping", monitor="val/lss"), "no such metric; did you mean 'val/loss'"),
    (given("ModelCheckpoint", monitor="val_top1"), "no such metric; did you mean 'val/top1'"),
    (given("EarlyStopping", monitor="epoch"), "no such metric"),
    (
        given("EarlyStopping", monitor="train/loss", check_on_train_epoch_end="false"),
        "Leave check_on_train_epoch_end out",
    ),
    (
        given("EarlyStopping", monitor="val/loss", check_on_train_epoch_end="true")
        + " --trainer.check_val_every_n_epoch 2",
        "every 2 epochs",
    ),
    (given("ModelCheckpoint", monitor="val/top1", every_n_train_steps=2), "Give ModelCheckpoint.every_n_epochs"),
    (given("ModelCheckpoint", save_on_exception="true"), "save_on_exception is not supported"),
    (given("ModelCheckpoint") + " " + given("ModelCheckpoint"), "more than one stateful callback"),
    (given("LearningRateMonitor"), "no logger to write to"),
    (given("DeviceStatsMonitor"), "no logger to write to"),
    (given("ThroughputMonitor", batch_size_fn="builtins.len"), "no logger to write to"),
    (given("EMAWeightAveraging", decay=0.8) + " --model.ema_decay 0.9", "averaged twice"),
    (given("StochasticWeightAveraging", swa_lrs=0.1) + " --model.ema_decay 0.9", "averaged twice"),
    (
        given("StochasticWeightAveraging", swa_lrs=0.1) + " " + given("Timer", duration="00:00:01:00"),
        "which Timer may end training before",
    ),
    (given("WeightAveraging") + " " + given("EMAWeightAveraging", decay=0.8), "averaged twice"),
    ("--trainer.max_time 00:00:00:01", "--trainer.callbacks+=Timer --trainer.callbacks.duration DD:HH:MM:SS"),
]


@pytest.mark.parametrize(("options", "said"), MONITORS)
def test_options_of_callbacks_that_cannot_count_are_refused(cli, tmp_path, options, said):
    result = cli(f"fit {TINY} {options}")
    assert result.status == 2
    assert said in result.err
    assert "Traceback" not in result.err
    assert not list(tmp_path.iterdir())


def test_a_job_is_not_queued_with_them(tmp_path):
    words = shlex.split(f"fit {TINY} {given('LearningRateFinder')}")
    with pytest.raises(UserError, match="the callback LearningRateFinder is not supported"):
        Preview(words, 1, 1)
    assert not list(tmp_path.iterdir())


def test_a_trial_takes_them_and_leaves_nothing(cli, tmp_path):
    callbacks = f"{given('ModelCheckpoint')} {given('EarlyStopping', monitor='val/loss')}"
    result = cli(f"fit --trainer.fast_dev_run true {TINY} {callbacks}")
    assert result.status == 0, result.err
    assert not list(tmp_path.iterdir())


def test_top5_is_no_metric_of_five_classes(cli, tmp_path):
    data = tree(tmp_path / "data", classes=tuple("abcde"))
    result = cli(
        f"fit --data ImageFolder --data.root {data} {given('EarlyStopping', monitor='val/top5')} --run_dir run"
    )
    assert result.status == 2
    assert "val/top5, which there is from 6 classes on, and here are 5" in result.err
    assert not Path("run").exists()


def test_a_metric_that_a_callback_of_ones_own_may_log_is_not_refused(cli, tmp_path):
    own = given("tests.observers.Log") + " " + given("EarlyStopping", monitor="mine", patience=1)
    assert cli(f"fit {TINY} --trainer.max_epochs 3 --run_dir run {own}").status == 0
    assert summary(tmp_path / "run")["epoch"] == 2


STOPS = [
    (given("EarlyStopping", monitor="val/loss", patience=1, min_delta=100), 2, "did not improve", (4, "train")),
    (given("EarlyStopping", monitor="val/top1", stopping_threshold=1.1), 1, "val/top1 = ", (3, "epoch end")),
    (given("EarlyStopping", monitor="lr", stopping_threshold=1) + " --trainer.min_epochs 2", 2, "lr = ", (4, "train")),
    (
        given("EarlyStopping", monitor="train/loss", patience=1, min_delta=100)
        + " --trainer.check_val_every_n_epoch 3 --model.ema_decay 0.9",
        2,
        "train/loss did not improve",
        (6, "epoch end"),
    ),
]


@pytest.mark.parametrize(("options", "epochs", "why", "struck"), STOPS)
def test_training_that_stops_early_is_a_whole_run(cli, tmp_path, options, epochs, why, struck):
    line = f"fit {TINY} --trainer.max_epochs 6 {options}"
    assert_goes_on(cli, tmp_path, line, [struck], tuple(f"evaluations/{file}" for file in FINDINGS))
    run = tmp_path / "reference"
    found = summary(run)
    assert (found["epoch"], found["epochs"]) == (epochs, 6)
    assert why in found["stopped"]
    assert_whole(run, epochs)
    assert rows(run)[-1]["val/top1"]
    assert found["metrics"]["val/top1"] == float(rows(run)[-1]["val/top1"])
    again = cli(f"{line} --run_dir reference")
    assert "nothing to do" in again.out
    assert f"stopped early, behind {epochs} of 6 epochs: EarlyStopping: " in again.out
    # Killed behind its last checkpoint, before it could say so: it is not trained longer.
    before = checkpoint(run)["global_step"]
    (run / "summary.json").write_text(json.dumps(found | {"status": "running"}))
    (run / "evaluations" / "val-confusion.csv").unlink()
    assert cli(f"{line} --run_dir reference").status == 0
    assert summary(run)["status"] == "finished"
    assert checkpoint(run)["global_step"] == before
    assert (run / "evaluations" / "val-confusion.csv").exists()


def test_two_processes_stop_early_together(tmp_path):
    stopping = given("EarlyStopping", monitor="train/loss", patience=1, min_delta=100)
    options = f"{stopping} {given('ModelCheckpoint', monitor='val/top1')} --trainer.check_val_every_n_epoch 3"
    out = run(f"fit {TINY} {TWO} --trainer.max_epochs 5 {options} --run_dir run")
    assert "stopped early, behind 2 of 5 epochs" in out
    assert summary(tmp_path / "run")["metrics"]["val/n_samples"] == 359
    confusion = list(csv.reader((tmp_path / "run" / "evaluations" / "val-confusion.csv").read_text().splitlines()))
    assert sum(int(count) for _, *counts in confusion[1:] for count in counts) == 359
    assert [path.name for path in (tmp_path / "run" / "checkpoints" / "callbacks").iterdir()] == ["epoch=1-step=6.ckpt"]


def test_a_run_that_stopped_early_is_trained_longer_by_another_that_waits_anew(cli, tmp_path):
    line = f"fit {TINY} {given('EarlyStopping', monitor='val/loss', patience=2, min_delta=100)}"
    assert cli(f"{line} --trainer.max_epochs 5 --run_dir run").status == 0
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert cli(f"{line} --trainer.max_epochs 9 --run_dir longer --ckpt_path {last}").status == 0
    assert [summary(tmp_path / run)["epoch"] for run in ("run", "longer")] == [3, 6]


def test_training_to_the_end_did_not_stop_early(cli, tmp_path):
    stopping = given("EarlyStopping", monitor="val/loss", stopping_threshold=100) + " --trainer.min_epochs 2"
    result = cli(f"fit {TINY} --trainer.max_epochs 2 --run_dir run {stopping}")
    assert summary(tmp_path / "run")["stopped"] is None
    assert "stopped early" not in result.out


def test_a_wish_to_end_within_an_epoch_ends_it_validated_and_is_not_interrupted(cli, tmp_path):
    stop = given("tests.observers.StopAt", step=5) + " --trainer.check_val_every_n_epoch 9"
    line = f"fit {TINY} --trainer.max_epochs 4 {stop}"
    assert_goes_on(cli, tmp_path, line, [(5, "val")])
    found = summary(tmp_path / "reference")
    assert (found["epoch"], found["global_step"], found["stopped"]) == (2, 5, "a callback asked for it")
    assert [bool(row["val/top1"]) for row in rows(tmp_path / "reference")] == [False, True]


@pytest.mark.parametrize("interval", [None, "epoch"])
def test_a_timer_ends_training(cli, tmp_path, interval):
    timer = given("Timer", duration="'{milliseconds: 1}'", **({"interval": interval} if interval else {}))
    line = f"fit {TINY} --trainer.max_epochs 3 --trainer.check_val_every_n_epoch 2 --run_dir run {timer}"
    assert cli(line).status == 0
    found = summary(tmp_path / "run")
    assert (found["epoch"], found["global_step"]) == (1, 3 if interval else 1)
    assert found["stopped"] == "Timer: its time is over"
    assert found["metrics"]["val/n_samples"] == 359
    assert all((tmp_path / "run" / "evaluations" / file).exists() for file in FINDINGS)
    assert "nothing to do" in cli(line).out
    assert "nothing to do" in cli("fit -c run/config.yaml").out


def test_a_timer_whose_time_is_not_over_changes_nothing(cli, finished, tmp_path):
    line = f"fit {SMALL} --trainer.max_epochs 3 --run_dir run {given('Timer', duration='00:10:00:00')}"
    line += f" {strike(tmp_path, 12)}"
    assert cli(line).status == 75
    assert cli(line).status == 0
    assert_same_result(tmp_path / "run", finished(cli))


def test_a_timer_counts_the_time_before_a_stop(cli, tmp_path):
    timer = given("Timer", duration="00:00:00:01")
    line = f"fit {TINY} --trainer.max_epochs 500 --run_dir run {timer} {strike(tmp_path, 6)}"
    assert cli(line).status == 75
    assert cli(line).status == 0
    found = summary(tmp_path / "run")
    assert found["stopped"] == "Timer: its time is over"
    assert found["epoch"] < 500
    assert_whole(tmp_path / "run", found["epoch"])
    assert "nothing to do" in cli(line).out


CHECKPOINTS = [
    (given("ModelCheckpoint"), {"epoch=2-step=15.ckpt"}),
    (given("ModelCheckpoint", every_n_epochs=2, save_top_k=-1), {"epoch=1-step=10.ckpt"}),
    (given("ModelCheckpoint", monitor="lr", save_top_k=2), {"epoch=1-step=10.ckpt", "epoch=2-step=15.ckpt"}),
    (given("ModelCheckpoint", every_n_train_steps=6, save_top_k=-1), {"epoch=1-step=6.ckpt", "epoch=2-step=12.ckpt"}),
    (given("ModelCheckpoint", save_last="true", save_top_k=0), {"last.ckpt"}),
]


@pytest.mark.parametrize(("options", "names"), CHECKPOINTS)
def test_checkpoints_of_a_callback_lie_beside_the_run_s_own(cli, finished, tmp_path, options, names):
    line = f"fit {SMALL} --trainer.max_epochs 3 {options}"
    line += f" --run_dir run {strike(tmp_path, 8)}"
    assert cli(line).status == 75
    resumed = cli(line)
    assert resumed.status == 0
    assert "not empty" not in resumed.err
    run = tmp_path / "run"
    assert {path.name for path in (run / "checkpoints" / "callbacks").iterdir()} == names
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"callbacks", "last.ckpt", "best.ckpt"}
    assert_same_result(run, finished(cli))


def test_a_checkpoint_s_monitored_metric_is_its_own_epoch_s(cli, tmp_path):
    name = given("ModelCheckpoint", monitor="train/loss", save_top_k=-1, filename="'{train/loss:.6f}'")
    line = f"fit {TINY} --trainer.max_epochs 2 --trainer.check_val_every_n_epoch 2 --run_dir run {name}"
    assert cli(f"{line} --trainer.callbacks.auto_insert_metric_name false").status == 0
    losses = {f"{float(row['train/loss']):.6f}.ckpt" for row in rows(tmp_path / "run")}
    written = tmp_path / "run" / "checkpoints" / "callbacks"
    assert {str(path.relative_to(written)) for path in written.rglob("*.ckpt")} == losses
    assert cli("test --run_dir run").status == 0


def test_the_run_s_own_folder_is_not_a_callback_s(cli, tmp_path):
    result = cli(f"fit {TINY} --run_dir run {given('ModelCheckpoint', dirpath='run/checkpoints')}")
    assert result.status == 2
    assert "is the run's own folder" in result.err
    assert not list(tmp_path.iterdir())


def test_rates_go_to_a_logger_and_rows_stay_whole(cli, finished, tmp_path):
    monitor = given("LearningRateMonitor", logging_interval="step") + " --trainer.log_every_n_steps 1"
    line = f"fit {SMALL} --trainer.max_epochs 3 {monitor} --trainer.logger CSVLogger --trainer.logger.save_dir logs"
    line += f" --run_dir run {strike(tmp_path, 10, 'epoch end')}"
    assert cli(line).status == 75
    assert cli(line).status == 0
    assert_whole(tmp_path / "run", 3)
    assert_same_result(tmp_path / "run", finished(cli))
    texts = [file.read_text().splitlines() for file in sorted(Path("logs").rglob("metrics.csv"))]
    logged = [float(line["lr-SGD"]) for text in texts for line in csv.DictReader(text) if line["lr-SGD"]]
    assert len(logged) == 15
    assert [logged[step] for step in (4, 9, 14)] == [float(row["lr"]) for row in rows(tmp_path / "run")]


def test_averaged_weights_by_hand_go_on(cli, finished, tmp_path):
    line = f"fit {SMALL} --trainer.max_epochs 3 {given('EMAWeightAveraging', decay=0.9)} --run_dir run"
    line += f" {strike(tmp_path, 7)}"
    assert cli(line).status == 75
    assert cli(line).status == 0
    assert_same_result(tmp_path / "run", finished(cli, "--model.ema_decay 0.9"))


def test_stochastic_weight_averaging_goes_on(cli, tmp_path):
    averaging = given("StochasticWeightAveraging", swa_lrs=0.05, swa_epoch_start=1, annealing_epochs=2)
    line = f"fit {TINY} --trainer.max_epochs 3 {averaging}"
    assert_goes_on(cli, tmp_path, line, [(7, "train"), (9, "train")])
    assert_whole(tmp_path / "reference", 4)  # the last gives the average its statistics
    assert [float(row["lr"]) for row in rows(tmp_path / "reference")][2:] == [0.05, 0.05]


def test_a_summary_is_printed_and_a_config_gives_callbacks_too(cli, tmp_path, caplog):
    Path("mine.yaml").write_text(
        "trainer:\n  max_epochs: 1\n  callbacks:\n  - class_path: ModelSummary\n    init_args: {max_depth: 2}\n"
        "  - class_path: EarlyStopping\n    init_args: {monitor: val/loss, verbose: true}\n"
        "  - class_path: LambdaCallback\n  - class_path: TQDMProgressBar\n"
    )
    result = cli(f"fit {TINY} -c mine.yaml --run_dir run")
    assert result.status == 0, result.err
    assert "model.layer1" in caplog.text
    assert "Metric val/loss improved" in caplog.text
    assert_whole(tmp_path / "run", 1)


def test_rich_draws_and_changes_nothing(cli, finished, tmp_path):
    pytest.importorskip("rich")
    line = f"fit {SMALL} --trainer.max_epochs 3 --run_dir run {given('RichProgressBar')} {given('RichModelSummary')}"
    line += f" {strike(tmp_path, 7)}"
    assert cli(line).status == 75
    result = cli(line)
    assert result.status == 0, result.err
    assert "Epoch 2/2" in result.out
    assert_same_result(tmp_path / "run", finished(cli))
