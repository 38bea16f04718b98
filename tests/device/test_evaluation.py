"""An evaluation waits for its first batch, whose labels it looks at, and for none behind it."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from reslightning import ImageClassifier
from reslightning.data import ImageFolder
from reslightning.data.views import center, grouped, stack
from reslightning.evaluation.protocol import OfPictures
from reslightning.evaluation.protocols import PROTOCOLS
from reslightning.models.architectures import get_architecture
from reslightning.models.resnet import ResNet
from reslightning.train.metrics import EvalMetrics, Sums, TrainMetrics
from tests.device.pretended import CUDA, WaitError, steady
from tests.device.training import Training, indices, noise

METRICS = {TrainMetrics, EvalMetrics}  # which steps of training and evaluation update


def small(arch="resnet18", **options):
    """Return a classifier whose network is of the form of ``arch``, and narrow."""
    model = ImageClassifier("resnet8", num_classes=7, **options)
    model.model = ResNet(replace(get_architecture(arch), depths=(1, 1, 1), widths=(2, 4, 8)), num_classes=7)
    return model


def test_every_metric_is_updated():
    assert set(Sums.__subclasses__()) == METRICS


@pytest.mark.parametrize("test_flip", [False, True])
def test_a_validation_waits_for_its_first_batch_alone(device, test_flip):
    training = Training(small("resnet20", test_flip=test_flip), noise()).start()
    training.begin_validation()
    training.validate(indices(), 1)  # the images come to the device
    with steady(device):
        training.validate(indices(16), 2)
        with pytest.raises(WaitError, match=re.escape("in check_labels: check_labels(self.lowest.item()")):
            training.validate(indices(32), 0)
    assert training.model._samples[0].device == CUDA


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_waits_for_nothing(device, name, average):
    protocol, data = PROTOCOLS[name](average), ImageFolder()
    training = Training(small(), data).move("validate")
    protocol.begin(training.model, data)
    batch = pictures(protocol, data), torch.zeros(3, dtype=torch.int64), indices(0, 3), []
    training.begin_validation()
    training.validate(batch, 1)  # what images are normalised by comes to the device
    with steady(device):
        training.validate(batch, 2)


def pictures(protocol, data):
    """Return what a loader gives of three pictures, of two shapes."""
    shapes = [(300, 300), (300, 340), (300, 300)]
    pixels = [np.zeros((*shape, 3), np.uint8) for shape in shapes]
    if isinstance(protocol, OfPictures):
        return grouped([protocol.views(picture, data.eval_sizes) for picture in pixels])
    return stack([center(picture, data.eval_sizes) for picture in pixels])
