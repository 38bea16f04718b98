"""Schedules at their boundaries, as functions; groups by kind of parameter."""

import pytest
import torch

from reslightning.errors import UserError
from reslightning.models.resnet import build_model
from reslightning.train.optim import (
    OPTIMIZERS,
    SCHEDULES,
    Optim,
    Schedule,
    make_factor,
    make_optimizer,
    values,
)


def test_step_at_the_papers_iterations():
    schedule = Schedule(name="step", milestones=[32000, 48000], unit="iterations")
    factor = make_factor(schedule, 390, 164)
    found = [factor(k) for k in (0, 31_999, 32_000, 47_999, 48_000)]
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_step_in_epochs_and_by_default():
    assert make_factor(Schedule(milestones=[2]), 10, 4)(19) == 1
    assert make_factor(Schedule(milestones=[2]), 10, 4)(20) == pytest.approx(0.1)
    default = make_factor(Schedule(), 10, 4)
    assert [default(k) for k in (19, 20, 29, 30)] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_the_lectures_linear_decay():
    factor = make_factor(Schedule(name="linear", tau=100, unit="iterations", final=0.01), 10, 20)
    assert factor(0) == 1
    assert factor(50) == pytest.approx(0.5 + 0.5 * 0.01)
    assert factor(100) == factor(199) == pytest.approx(0.01)


def test_cosine_and_one_cycle():
    factor = make_factor(Schedule(name="cosine", final=0.1), 10, 10)
    assert [factor(k) for k in (0, 50, 100)] == pytest.approx([1, 0.55, 0.1])
    factor = make_factor(Schedule(name="one_cycle", peak=0.2), 10, 10)
    assert [factor(k) for k in (0, 10, 20, 60, 100)] == pytest.approx([0.04, 0.52, 1, 0.5, 0])


@pytest.mark.parametrize("name", ["step", "linear", "cosine", "one_cycle", "constant"])
def test_warm_up_scales_any_schedule(name):
    with_it, without = (make_factor(Schedule(name=name, warmup=w), 10, 10) for w in (2, 0))
    assert [with_it(k) for k in (0, 9, 19, 20, 50)] == pytest.approx(
        [without(0) / 20, without(9) / 2, without(19), without(20), without(50)]
    )


def test_norms_and_biases_without_decay():
    model = build_model("resnet20")
    groups = make_optimizer(model, Optim(decay_norm_and_bias=False)).param_groups
    assert [group["weight_decay"] for group in groups] == [1e-4, 0.0]
    assert all(p.ndim > 1 for p in groups[0]["params"])
    assert len(groups[0]["params"]) == 20  # 19 convolutions and the linear layer
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert len(make_optimizer(model, Optim(name="adamw")).param_groups) == 1


def test_rates_that_go_by_the_batch_and_by_the_layer():
    optim = Optim(lr=0.1, lr_batch=256, body_lr=0.1)
    assert [optim.peak(size) for size in (256, 1024)] == [0.1, 0.4]
    model = build_model("resnet20")
    groups = make_optimizer(model, optim, optim.peak(1024)).param_groups
    assert [(group["lr"], len(group["params"])) for group in groups] == [(0.4, 2), (pytest.approx(0.04), 57)]
    groups = make_optimizer(model, Optim(body_lr=0.5, decay_norm_and_bias=False)).param_groups
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [
        (0.1, 1e-4),
        (0.1, 0.0),
        (0.05, 1e-4),
        (0.05, 0.0),
    ]
    model.conv1.requires_grad_(False)
    assert sum(len(group["params"]) for group in make_optimizer(model, Optim()).param_groups) == 58


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_norms_biases_have_a_rate_of_their_own_and_as_much_decay_a_step(name):
    model = build_model("resnet8")
    biases = [module.bias for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    optim = Optim(name=name, lr=0.1, weight_decay=0.01, norm_bias_lr=64)
    optimizer = make_optimizer(model, optim)
    own, others = optimizer.param_groups
    assert [id(value) for value in own["params"]] == [id(value) for value in biases]
    assert len(others["params"]) == len(list(model.parameters())) - len(biases)
    assert (own["lr"], others["lr"]) == (pytest.approx(6.4), 0.1)
    assert values(optimizer)["lr"] == 0.1
    assert values(optimizer)["weight_decay"] == 0.01
    for value in model.parameters():
        value.data.fill_(1.0)
        value.grad = torch.zeros_like(value)
    optimizer.step()
    for value in model.parameters():
        torch.testing.assert_close(value.data, torch.full_like(value, 1 - 0.1 * 0.01))
    own, *_ = make_optimizer(model, Optim(norm_bias_lr=64, decay_norm_and_bias=False)).param_groups
    assert own["weight_decay"] == 0


def test_fixup_s_scalars_learn_at_a_tenth_of_the_rate():
    model = build_model("resnet8", norm="none", num_classes=1)
    large, small = make_optimizer(model, Optim(lr=0.1)).param_groups
    assert (large["lr"], small["lr"]) == (0.1, pytest.approx(0.01))
    scalars = {id(value) for name, value in model.named_parameters() if name.split(".")[-1] in ("shift", "multiplier")}
    scalars |= {id(value) for name, value in model.named_parameters() if ".bn" in name or name.startswith("bn")}
    assert {id(value) for value in small["params"]} == scalars
    assert len(make_optimizer(build_model("plain8", norm="none"), Optim()).param_groups) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (lambda: Optim(lr=0), "model.optim.lr=0"),
        (lambda: Optim(lr_batch=0), "model.optim.lr_batch=0"),
        (lambda: Optim(body_lr=2.0), "model.optim.body_lr=2.0"),
        (lambda: Optim(norm_bias_lr=0), "model.optim.norm_bias_lr=0"),
        (lambda: Optim(momentum=1), "momentum=1"),
        (lambda: Optim(momentum=0, nesterov=True), "nesterov needs momentum"),
        (lambda: Schedule(milestones=[3, 2]), "ascending"),
        (lambda: Schedule(peak=1), "peak=1"),
    ],
)
def test_values_out_of_range(options, said):
    with pytest.raises(UserError, match=said):
        options()


def stepped(name):
    """Return a layer and its optimizer behind a first step."""
    model = torch.nn.Linear(30, 20)
    optimizer = make_optimizer(model, Optim(name=name))
    model(torch.ones(1, 30)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_keeps_what_its_row_says(name):
    """A run's room for checkpoints is reckoned by it."""
    model, optimizer = stepped(name)
    kept = sum(v.numel() for s in optimizer.state_dict()["state"].values() for v in s.values() if v.ndim)
    assert kept == OPTIMIZERS[name].kept * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_as_the_device_takes_them_also_from_a_checkpoint_of_another(name):
    _, optimizer = stepped(name)
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        assert not group["fused"]  # which would round otherwise on a CPU
        group["fused"] = True  # a GPU's
    optimizer.load_state_dict(state)
    assert not any(group["fused"] for group in optimizer.param_groups)
    optimizer.step()


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_warms_up_and_stays_within_its_peak(name):
    factor = make_factor(Schedule(name=name, warmup=1), 10, 5)
    assert 0 < factor(0) < factor(4) <= 1
    assert all(0 <= factor(k) <= 1 for k in range(60))
