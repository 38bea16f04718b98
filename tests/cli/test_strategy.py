"""What forks or spawns is refused: what its processes train would be lost."""

from __future__ import annotations

import pytest

from tests.conftest import SMALL


@pytest.mark.parametrize(
    "options",
    [
        "ddp_notebook",
        "ddp_fork --trainer.devices 2",
        "ddp_spawn --trainer.fast_dev_run true",
        "ddp_notebook_find_unused_parameters_false",
        "DDPStrategy --trainer.strategy.start_method=forkserver",
        "lightning.pytorch.strategies.DDPStrategy --trainer.strategy.init_args.start_method spawn",
    ],
)
def test_what_forks_or_spawns_is_refused_before_anything_is_made(cli, tmp_path, options):
    refused = cli(f"fit {SMALL} --trainer.accelerator cpu --trainer.strategy {options}")
    assert refused.status == 2, refused.err
    assert f"{options.split()[0].rpartition('.')[2]} forks or spawns" in refused.err
    assert "use --trainer.strategy ddp" in refused.err
    assert list(tmp_path.iterdir()) == []


def test_accumulated_gradients_of_a_static_graph_are_refused(cli, tmp_path):
    options = "DDPStrategy --trainer.strategy.static_graph true --trainer.accumulate_grad_batches 2"
    refused = cli(f"fit {SMALL} --trainer.accelerator cpu --trainer.devices 2 --trainer.strategy {options}")
    assert refused.status == 2, refused.err
    assert "gradients are accumulated, over 2 batches here" in refused.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("strategy", ["auto", "ddp", "ddp_find_unused_parameters_true"])
def test_others_train(cli, strategy):
    assert cli(f"fit {SMALL} --trainer.fast_dev_run true --trainer.strategy {strategy} --trainer.devices 1").status == 0
