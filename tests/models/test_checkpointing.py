"""Blocks that are computed again train to the same bits, and keep less meanwhile."""

import pytest
import torch
import torch.nn.functional as F

from reslightning.models.resnet import build_model
from tests.conftest import assert_same_bits

NETWORKS = [
    ("resnet8", "v1", "batch"),
    ("resnet8", "v2", "batch"),
    ("resnet8", "v1", "none"),
    ("plain8", None, "batch"),
    ("resnet164", "v2", "batch"),
]


def kept_by(work):
    """Return what ``work`` gives, and the bytes of the tensors that it keeps for the backward pass."""
    kept = {}

    def note(tensor):
        kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        return work(), sum(kept.values())


@pytest.mark.parametrize(("arch", "version", "norm"), NETWORKS)
def test_training_has_the_same_bits(arch, version, norm):
    found = []
    for checkpoints in (False, True):
        torch.manual_seed(0)
        network = build_model(arch, version=version, norm=norm, num_classes=7).train()
        network.activation_checkpointing = checkpoints
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        passes, hooked = [], []
        for block in network.blocks:
            block.conv1.register_forward_hook(lambda *_, passes=passes: passes.append(1))
            block.register_forward_hook(lambda *_, hooked=hooked: hooked.append(1))
        losses = []
        for _ in range(2):
            loss = F.cross_entropy(network(torch.randn(4, 3, 16, 16)), torch.randint(0, 7, (4,)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        blocks = len(network.blocks)
        assert len(passes) == 2 * (1 + checkpoints) * blocks
        assert len(hooked) == 2 * blocks  # nobody who looks at blocks sees one twice
        found.append({"losses": losses, "weights": dict(network.state_dict())})
    assert_same_bits(*found)


def test_less_is_kept():
    network, images = build_model("resnet56").train(), torch.randn(8, 3, 32, 32)
    _, everything = kept_by(lambda: network(images))
    network.activation_checkpointing = True
    _, some = kept_by(lambda: network(images))
    assert some < everything / 4


def test_evaluations_compute_nothing_again():
    network, images = build_model("resnet8").eval(), torch.randn(2, 3, 16, 16)
    expected = network(images)
    network.activation_checkpointing = True
    assert torch.equal(network(images), expected)
    assert network(images).grad_fn.name() == expected.grad_fn.name()
