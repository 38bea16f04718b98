"""A small stand-in for wandb.Api: runs in pages, with configuration, summary and history, that may fail half-way.

Run 4 is a requeued one that is running, 5 one that was killed in its second segment, 6 no run of this package's,
9 one without a configuration.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

PAGE = 50


class Api:
    """Runs numbered from 0, two groups of them; the server fails before run ``fails_at``."""

    def __init__(self, runs: int, fails_at: int | None = None) -> None:
        self.count, self.fails_at, self.pages = runs, fails_at, 0

    def runs(self, path: str, filters: dict | None, order: str, per_page: int, lazy: bool) -> Iterator[Any]:
        assert (order, per_page, lazy) == ("+created_at", PAGE, False)
        for number in range(self.count):
            if number % PAGE == 0:
                self.pages += 1
            if number == self.fails_at:
                raise ConnectionError("502 Bad Gateway")
            run = _run(path, number)
            if not filters or run.group == filters["group"]:
                yield run


def _run(path: str, number: int) -> Any:
    top1 = 0.5 + number / 4000
    start, end = _facts(0.1, segments=2 if number in (4, 5) else 1), _facts(60.0, segments=1)
    history = [
        {"epoch": 1, "trainer/global_step": 10, "val/top1": top1, "train/top1": 0.4, "_step": 0},
        {"epoch": None, "lr": 0.1, "_step": 1},
        {"epoch": 2, "trainer/global_step": 20, "val/top1": top1 + 0.1, "train/top1": "NaN", "_step": 2},
        {"epoch": 2, "val/top1": top1 + 0.2, "_step": 3},  # trained again after a kill
        {"val/confusion": {"_type": "table-file"}, "_step": 4},
    ]
    config, summary = {"run": start, "model": {"arch": "resnet20"}}, {"status": "finished", "run": end, "epoch": 2}
    if number == 6:
        config, summary, history = {"run": "mine"}, {"accuracy": 0.9}, [{"epoch": "one", "loss": 3}, {"epoch": 1}]
    if number == 9:
        config = None
    if number == 7:
        history[3]["val/top1"] = top1 + 0.1
    return SimpleNamespace(
        id=f"id{number}",
        name=f"run-{number}",
        path=[*path.split("/"), f"id{number}"],
        config=config,
        summary_metrics=summary,
        state={4: "running", 5: "crashed"}.get(number, "finished"),
        group=f"g{number % 2}",
        heartbeat_at="2026-01-01T00:00:00Z",
        scan_history=lambda: iter(history),
    )


def _facts(seconds: float, segments: int) -> dict[str, Any]:
    """Return what a training tells W&B of itself, at its start and at its end."""
    part = {"world_size": 2, "from_step": 0, "to_step": 20, "seconds": seconds}
    return {
        **{"arch": "resnet20", "dataset": "CIFAR10", "protocol": "center", "val_source": "test", "epochs": 2},
        **{"device": "cuda", "options": {"data.batch_size": 128, "model.arch": "resnet20"}},
        **{"seconds": seconds, "epoch": 2, "global_step": 20, "segments": [part] * segments},
    }
