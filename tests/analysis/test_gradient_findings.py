"""What the gradients of several seeds decide."""

import math

import pytest

from reslightning.analysis.gradient_findings import Ratios, findings


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((1.0, 1.1, 0.9), "supported"),
        ((0.8, 1.2, 1.0), "supported"),
        ((18.0, 20.0, 16.0), "not supported"),
        ((0.01, 0.012, 0.009), "not supported"),
        ((1.0, 2.0, 4.0), "not decided"),
        ((0.1, 1.0, 10.0), "not decided"),
        ((1.0,), "not decided"),
        ((1e300, 1e300, 1e300), "not supported"),
    ],
)
def test_a_gradient_keeps_its_size(values, verdict):
    (found,) = findings([Ratios("resnet8", False, 3, values)])
    assert (found.that, found.verdict) == ("resnet8: the gradient keeps its size", verdict)


def test_a_network_is_compared_with_plain_ones_of_as_many_blocks():
    networks = [
        Ratios("plain8", True, 3, (0.01, 0.012, 0.011)),
        Ratios("plain20", True, 9, (20.0, 25.0, 22.0)),
        Ratios("resnet20", False, 9, (5.0, 4.0, 4.5)),
        Ratios("resnet8", False, 3, (200.0, 300.0, 250.0)),
    ]
    found = {one.that: one for one in findings(networks)[4:]}
    assert {that: one.verdict for that, one in found.items()} == {
        "the gradient keeps its size better in resnet8 than in plain8": "not supported",
        "the gradient keeps its size better in resnet20 than in plain20": "supported",
    }
    logarithms = [math.log(a) - math.log(b) for a, b in zip((20, 25, 22), (5, 4, 4.5), strict=True)]
    mean = sum(logarithms) / 3
    deviation = math.sqrt(sum((one - mean) ** 2 for one in logarithms) / 2)
    half = 4.302653 * deviation / math.sqrt(3)  # Student's t of two degrees of freedom
    numbers = found["the gradient keeps its size better in resnet20 than in plain20"].numbers
    wanted = f"factor {math.exp(mean):.3g}, 95 % interval {math.exp(mean - half):.3g} to {math.exp(mean + half):.3g}"
    assert numbers == f"{wanted}, 3 seeds"
