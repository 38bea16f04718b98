"""A step of training waits for nothing, with whatever option, but where it looks at the loss on purpose."""

import inspect
import re
import signal
from dataclasses import fields
from typing import get_args

import pytest
import torch

from reslightning import ImageClassifier
from reslightning.errors import Stopped
from reslightning.models.architectures import SHORTCUTS, Norm, Version
from reslightning.train.optim import OPTIMIZERS, SCHEDULES, Optim, Schedule
from reslightning.train.preemption import Preemption
from reslightning.train.throughput import WARM_UP, Throughput
from tests.device.pretended import CUDA, WaitError, steady
from tests.device.training import Training, indices, noise

# What each optimizer and each schedule is tried with, besides what it has by itself: every option of theirs.
OPTIM = {
    "lr": 0.05,
    "momentum": 0.5,
    "nesterov": True,
    "betas": (0.8, 0.9),
    "weight_decay": 0.01,
    "decay_norm_and_bias": False,
    "lr_batch": 8,
    "body_lr": 0.1,
    "norm_bias_lr": 8.0,
}
SCHEDULE = {"warmup": 1, "milestones": [2], "gamma": 0.5, "tau": 3, "unit": "iterations", "final": 0.1, "peak": 0.5}
# Every option of the network's training. A new one needs its cases here, or a word below.
CASES = {
    "shortcut": tuple(SHORTCUTS),
    "version": get_args(Version),
    "norm": get_args(Norm),
    "norm_momentum": (0.4,),
    "zero_init_residual": (True,),
    "optim": tuple({"name": name} | given for name in OPTIMIZERS for given in ({}, OPTIM)),
    "schedule": tuple({"name": name} | SCHEDULE for name in SCHEDULES),
    "label_smoothing": (0.1,),
    "frozen_stages": (1,),
    "channels_last": (True,),
    "activation_checkpointing": (True,),
}
# What is trained, and from where; evaluations'; the average, which is below; the compiler's, which is no eager step.
OTHERS = {"arch", "num_classes", "weights", "new_head", "test_flip", "ema_decay", "ema_warmup", "compile"}


def classifier(**options):
    return ImageClassifier("resnet8", num_classes=7, **options)


def trained(device, data=None, *, how=None, **options):
    """Train a step that may wait, and one that may not."""
    training = Training(classifier(**options), data or noise(), **(how or {})).start()
    training.step(indices(), 1)
    with steady(device):
        training.step(indices(16), 2)
    return training


def test_every_option_has_its_cases():
    assert set(inspect.signature(ImageClassifier).parameters) == set(CASES) | OTHERS
    assert {field.name for field in fields(Optim)} == {"name", *OPTIM}
    assert {field.name for field in fields(Schedule)} == {"name", *SCHEDULE}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in CASES.items() for value in values])
def test_a_step_waits_for_nothing(device, name, value):
    training = trained(device, **{name: value})
    assert all(parameter.device == CUDA for parameter in training.model.parameters())


@pytest.mark.parametrize("warms", [None, True])
def test_an_average_of_the_weights_waits_in_its_first_step_alone(device, warms):
    training = Training(classifier(ema_decay=0.9, ema_warmup=warms), noise()).start()
    with pytest.raises(WaitError, match=r"swa_utils\.py:\d+ in update_parameters"):
        training.step(indices(), 1)
    (averaging,) = training.callbacks
    averaging._average_model.begun = True
    with steady(device):
        training.step(indices(), 2)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("how", [{"precision": "bf16-mixed"}, {"clip": 1.0}, {"precision": "bf16-mixed", "clip": 1.0}])
def test_lower_precision_and_clipping_wait_for_nothing(device, name, how):
    training = trained(device, how=how, optim={"name": name})
    assert all(group["fused"] for group in training.optimizer.param_groups)
    # Its casts are C++'s, which no pretended tensor sees.
    with training.precision.forward_context():
        assert torch.is_autocast_enabled("cuda") == ("precision" in how)


def test_the_speed_is_measured_without_waiting_but_when_the_clock_is_started(device):
    throughput = Throughput()
    training = Training(classifier(), noise()).start()
    training.callbacks.append(throughput)
    waited = []
    training.step(indices(), 1)
    for number in range(1, WARM_UP + 5):
        with steady(device):
            try:
                training.step(indices(), number + 1)
            except WaitError as error:
                waited.append((throughput._steps, "throughput.py" in str(error)))
                throughput._since, throughput._counted = 0.0, 0
    assert waited == [(WARM_UP, True)]
    assert throughput._counted > 0


def test_whether_to_stop_or_save_is_asked_without_waiting(device):
    saved = []
    preemption = Preemption(saved.append, interval=0)
    training = Training(classifier(), noise()).start()
    preemption.on_train_start(training.trainer, training.model)
    training.callbacks.append(preemption)
    training.step(indices(), 1)
    with steady(device):
        training.step(indices(), 2)
        assert len(saved) == 2
        preemption._signal = signal.SIGTERM
        with pytest.raises(Stopped):
            training.step(indices(), 3)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_targets_wait_for_nothing(device, smoothing):
    trained(device, noise(mixup=0.4, cutmix=1.0), label_smoothing=smoothing)


def test_the_loss_is_looked_at_in_the_first_step_and_in_every_fiftieth(device):
    training = trained(device)
    looked = {}
    with steady(device):
        for number in (0, 1, 2, 48, 49, 50, 51, 98, 99, 100):
            try:
                training.step(indices(), number)
            except WaitError as error:
                looked[number] = str(error)
    assert list(looked) == [0, 49, 99]
    for where in looked.values():
        assert re.search(r"classifier\.py:\d+ in _check: first_bad, lowest, highest = ", where)
