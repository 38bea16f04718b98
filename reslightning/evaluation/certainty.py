"""How sure an accuracy is, given its number of images, and a difference of two networks on the same ones."""

from __future__ import annotations


def wilson(hits: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share, in [0, 1] (Wilson 1927; without continuity correction).

    It is of the images alone, as if others of their kind had been drawn: another training of the same network would
    differ by its seed, too.

    Args:
        hits: how many images were right.
        count: of how many, 1 or more.
    """
    from scipy.stats import binomtest

    found = binomtest(round(hits), count).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def mcnemar(one_alone: int, other_alone: int) -> float:
    """Return the p-value of McNemar's exact test, two-sided: of two networks on the same images (McNemar 1947).

    Where both are as good, an image that one of them alone has right is either's with equal chance. It is of these two
    networks: of the recipes they were trained by, only several trainings of each say something.

    Args:
        one_alone: images that the first network alone has right.
        other_alone: images that the second one alone has right.
    """
    from scipy.stats import binomtest

    differing = one_alone + other_alone
    return float(binomtest(one_alone, differing).pvalue) if differing else 1.0
