"""What a training says of its loader."""

import pytest

from reslightning.train.messages import verdict


@pytest.mark.parametrize(
    ("waited", "workers", "cpus", "said"),
    [
        (0.02, 4, 8, "not loader-bound: 2 % of the time was spent waiting for data"),
        (0.5, 4, 16, "loader-bound: 50 % of the time was spent waiting for data; 8 workers would do"),
        (0.75, 0, 16, "3 workers would do (data.num_workers, now 0)"),
        (0.5, 4, 6, "but this process has 6 CPUs: ask for more, or `reslightning pack --max-side 400`"),
        (None, 4, 6, "too few steps"),
    ],
)
def test_the_loader_s_verdict(waited, workers, cpus, said):
    assert said in verdict(waited, workers, cpus)
