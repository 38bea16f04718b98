"""The average of the weights is Lightning's, bit for bit, in a run that goes on, too."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from reslightning.train.averaging import Averaging, warmed
from tests.conftest import assert_same_bits


class Small(LightningModule):
    """One with parameters, and buffers of both kinds."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def averaged(callback, kept=None, steps=range(1, 5)):
    """Return what a checkpoint has of an average behind steps, of a training that goes on from ``kept``."""
    model = Small()
    callback.setup(None, model, "fit")
    if kept:
        callback._average_model.load_state_dict(kept)
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for value in (*model.parameters(), *model.buffers()):
            value.data.copy_(torch.randint(0, 9, value.shape, generator=generator))
        callback.on_train_batch_end(SimpleNamespace(global_step=step), model, None, None, 0)
    return callback._average_model.state_dict()


def test_the_average_is_lightning_s():
    theirs = averaged(EMAWeightAveraging(decay=0.7))
    assert theirs["n_averaged"] == 4
    assert_same_bits(dict(averaged(Averaging(get_ema_avg_fn(0.7)))), dict(theirs))
    half = averaged(Averaging(get_ema_avg_fn(0.7)), steps=(1, 2))
    assert_same_bits(dict(averaged(Averaging(get_ema_avg_fn(0.7)), half, steps=(3, 4))), dict(theirs))
    assert Averaging(get_ema_avg_fn(0.7)).state_key == EMAWeightAveraging(decay=0.7).state_key


def test_an_average_s_decay_warms_up():
    layer = torch.nn.Linear(1, 1)
    averaged = AveragedModel(layer, avg_fn=warmed(0.5))
    wanted = None
    for step in range(12):
        layer.weight.data.fill_(float(step**2))
        averaged.update_parameters(layer)
        kept = min(0.5, (1 + step) / (10 + step))
        wanted = step**2 if wanted is None else kept * wanted + (1 - kept) * step**2
        assert averaged.module.weight.item() == pytest.approx(wanted)
    assert kept == 0.5
