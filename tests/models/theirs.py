"""What tests of other people's files share: networks with weights that tell, and what else lies in such files."""

import argparse
import collections
import datetime
import pathlib
import re
import types

import numpy as np
import torch

from reslightning.models.resnet import build_model

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def varied(model):
    """Return a network with statistics and scales that are no one's defaults, in evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith(("running_mean", "bias")):
                value.normal_(0, 0.1, generator=generator)
            elif value.dim() == 1 and value.is_floating_point():
                value.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def ours(arch, **options):
    torch.manual_seed(2)
    return varied(build_model(arch, **options))


def logits(model):
    with torch.no_grad():
        found = model.eval()(IMAGES)
    assert found.std(0).mean() > 0.01  # what any weights give would be no answer
    return found


def under(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


def renamed(state, **names):
    for ours, theirs in names.items():
        state = {re.sub(rf"\b{ours}\b", theirs, name): value for name, value in state.items()}
    return state


ARGS = argparse.Namespace(
    lr=0.1,
    data=pathlib.PurePosixPath("data"),
    log=pathlib.Path("log"),
    nested=types.SimpleNamespace(when=datetime.datetime(2024, 1, 1), took=datetime.timedelta(1)),
    best=np.float64(93.5),
    rows=np.arange(3),
    counts=collections.defaultdict(list, a=[1]),
    last=collections.deque([1, 2], maxlen=3),
    kept=collections.OrderedDict(a=1),
)
