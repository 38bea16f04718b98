"""Optimizers, parameter groups, and learning-rate schedules as pure step -> factor functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from reslightning.errors import UserError

Factor = Callable[[int], float]


@dataclass(frozen=True)
class Optim:
    """The optimizer. The defaults are the paper's (arXiv:1512.03385, Sec. 3.4 and 4.2).

    Attributes:
        name: sgd or adamw.
        lr: peak learning rate; the schedule multiplies it.
        momentum: SGD's momentum in [0, 1).
        nesterov: SGD with Nesterov's momentum.
        betas: AdamW's two decay rates.
        weight_decay: L2 penalty of SGD, decoupled decay of AdamW.
        decay_norm_and_bias: weight decay on norms and biases too, as in the paper.
        lr_batch: the batch size that lr is for: the peak is lr x data.batch_size / lr_batch, linear
            scaling, which large batches need a warm-up with (arXiv:1706.02677); none given means that
            lr is the peak.
        body_lr: rate of all but the final layer, as a fraction of the final layer's, for fine-tuning.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    decay_norm_and_bias: bool = True
    lr_batch: int | None = None
    body_lr: float | None = None

    def __post_init__(self) -> None:
        """Refuse values no optimizer takes."""
        _require(self.lr > 0, "model.optim.lr", self.lr, "a positive number")
        _require(0 <= self.momentum < 1, "model.optim.momentum", self.momentum, "a number in [0, 1)")
        _require(self.weight_decay >= 0, "model.optim.weight_decay", self.weight_decay, "0 or more")
        _require(all(0 <= b < 1 for b in self.betas), "model.optim.betas", self.betas, "two numbers in [0, 1)")
        if self.nesterov and self.momentum == 0:
            raise UserError("model.optim.nesterov needs momentum: set model.optim.momentum above 0")
        _require(self.lr_batch is None or self.lr_batch > 0, "model.optim.lr_batch", self.lr_batch, "images, 1 or more")
        _require(self.body_lr is None or 0 < self.body_lr <= 1, "model.optim.body_lr", self.body_lr, "(0, 1]")

    def peak(self, batch_size: int) -> float:
        """Return the peak learning rate for batches of so many images."""
        return self.lr if self.lr_batch is None else self.lr * batch_size / self.lr_batch


@dataclass(frozen=True)
class Schedule:
    """How the learning rate changes, step by step, as a factor of ``optim.lr``.

    Attributes:
        name: step: times ``gamma`` at each milestone; linear: e_k = (1 - k/tau) e_0 + (k/tau) e_tau
            until iteration tau, constant after; cosine: half a cosine down to ``final``; one_cycle:
            linearly up from 1/25 until ``peak``, then linearly down to ``final``; constant.
        warmup: linear warm-up in epochs, multiplied onto any schedule.
        milestones: where "step" drops; none given means at half and three quarters of training.
        gamma: factor at each milestone.
        tau: where "linear" becomes constant; none given means the end of training.
        unit: unit of milestones and tau: epochs or iterations (optimizer steps).
        final: lowest rate of linear (e_tau), cosine and one_cycle, as a fraction of optim.lr.
        peak: fraction of training after which one_cycle reaches its peak.
    """

    name: Literal["step", "linear", "cosine", "one_cycle", "constant"] = "step"
    warmup: float = 0.0
    milestones: list[float] | None = None
    gamma: float = 0.1
    tau: float | None = None
    unit: Literal["epochs", "iterations"] = "epochs"
    final: float = 0.0
    peak: float = 0.25

    def __post_init__(self) -> None:
        """Refuse values no schedule can follow."""
        _require(self.warmup >= 0, "model.schedule.warmup", self.warmup, "epochs, 0 or more")
        _require(0 <= self.final <= 1, "model.schedule.final", self.final, "a fraction in [0, 1]")
        _require(0 < self.peak < 1, "model.schedule.peak", self.peak, "a fraction in (0, 1)")
        _require(self.tau is None or self.tau > 0, "model.schedule.tau", self.tau, "a positive number")
        milestones = self.milestones or []
        _require(
            milestones == sorted(milestones) and all(m > 0 for m in milestones),
            "model.schedule.milestones",
            self.milestones,
            "positive numbers in ascending order",
        )


def _require(condition: bool, option: str, given: object, allowed: str) -> None:
    if not condition:
        raise UserError(f"{option}={given} is out of range; allowed: {allowed}")


def step_decay(milestones: list[float], gamma: float) -> Factor:
    """Return ``gamma`` to the number of milestones (iterations) reached."""
    return lambda k: float(gamma ** sum(k >= milestone for milestone in milestones))


def linear_decay(tau: float, final: float) -> Factor:
    """Return (1 - a) + a * final with a = min(k / tau, 1): linear until tau, then constant."""
    return lambda k: 1 - min(k / tau, 1.0) * (1 - final)


def cosine(total: int, final: float) -> Factor:
    """Return half a cosine from 1 down to ``final`` over ``total`` iterations (arXiv:1608.03983)."""
    return lambda k: final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(k / total, 1.0)))


def one_cycle(total: int, peak: float, final: float, start: float = 1 / 25) -> Factor:
    """Return ``start`` rising linearly to 1 at ``peak * total``, then falling to ``final``."""
    top = peak * total

    def factor(k: int) -> float:
        if k < top:
            return start + (1 - start) * k / top
        return 1 - (1 - final) * min((k - top) / (total - top), 1.0)

    return factor


def warm_up(factor: Factor, iterations: float) -> Factor:
    """Return ``factor`` with its first iterations scaled by 1/n, 2/n, ..., 1 (arXiv:1706.02677)."""
    if iterations <= 0:
        return factor
    return lambda k: factor(k) * min((k + 1) / iterations, 1.0)


def make_factor(schedule: Schedule, steps_per_epoch: int, epochs: int) -> Factor:
    """Return the schedule as a function from iteration (0, 1, ...) to a factor of the peak rate.

    Args:
        schedule: which one.
        steps_per_epoch: optimizer steps in an epoch.
        epochs: length of training.
    """
    total = max(steps_per_epoch * epochs, 1)
    scale = steps_per_epoch if schedule.unit == "epochs" else 1
    milestones = [total / 2, total * 3 / 4] if schedule.milestones is None else [m * scale for m in schedule.milestones]
    tau = total if schedule.tau is None else schedule.tau * scale
    factor: Factor = {
        "step": step_decay(milestones, schedule.gamma),
        "linear": linear_decay(tau, schedule.final),
        "cosine": cosine(total, schedule.final),
        "one_cycle": one_cycle(total, schedule.peak, schedule.final),
        "constant": lambda k: 1.0,
    }[schedule.name]
    return warm_up(factor, schedule.warmup * steps_per_epoch)


def parameter_groups(model: nn.Module, optim: Optim, lr: float) -> list[dict[str, Any]]:
    """Return the groups an optimizer takes: by weight decay, and by rate where the body has its own.

    Norms and biases are the parameters of fewer than two dimensions; the head is the final layer, fc.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = optim.weight_decay if optim.decay_norm_and_bias or parameter.ndim > 1 else 0.0
            rate = lr if optim.body_lr is None or name.startswith("fc.") else lr * optim.body_lr
            groups.setdefault((rate, decay), []).append(parameter)
    # Weight decay first, as the order of what an optimizer keeps goes by it.
    ordered = sorted(groups, key=lambda group: (-group[0], -group[1]))
    return [{"params": groups[rate, decay], "lr": rate, "weight_decay": decay} for rate, decay in ordered]


def make_optimizer(model: nn.Module, optim: Optim, lr: float | None = None) -> torch.optim.Optimizer:
    """Return the optimizer over the model's parameters; ``lr`` is the peak, none given means optim.lr."""
    groups = parameter_groups(model, optim, optim.lr if lr is None else lr)
    if optim.name == "sgd":
        return torch.optim.SGD(groups, momentum=optim.momentum, nesterov=optim.nesterov)
    return torch.optim.AdamW(groups, betas=optim.betas)
