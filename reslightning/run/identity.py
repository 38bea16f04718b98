"""A run's identity: what of a configuration determines the result; without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What does not determine a run's result. Everything else in the configuration does.
_NOT_IDENTITY = {
    "": {"config", "run_dir", "fresh", "wandb", "verbose", "weights_only", "return_predictions", "checkpoint_minutes"},
    "data": {"root", "num_workers", "stage_to", "index_dir", "download"},
    "trainer": {
        "accelerator",
        "strategy",
        "devices",
        "num_nodes",
        "logger",
        "log_every_n_steps",
        "enable_checkpointing",
        "enable_progress_bar",
        "enable_model_summary",
        "enable_autolog_hparams",
        "default_root_dir",
        "profiler",
        "detect_anomaly",
        "barebones",
        "plugins",
        "use_distributed_sampler",
        "num_sanity_val_steps",
        "model_registry",
        "inference_mode",
        "max_time",
    },
}


def determining(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a resolved configuration that determines the result, flattened.

    Keys are dotted; the data set's class name stands for its class path.
    """
    flat: dict[str, Any] = {}
    for group, value in config.items():
        if group in _NOT_IDENTITY[""] or value is None:
            continue
        if group == "data":
            flat["data"] = value["class_path"].rpartition(".")[2]
            value = value.get("init_args", {})
        ignored = _NOT_IDENTITY.get(group, set())
        if isinstance(value, Mapping):
            flat.update(_flatten({k: v for k, v in value.items() if k not in ignored}, f"{group}."))
        else:
            flat[group] = value
    # Earlier versions read a number of batches as 4.0, but 1.0 is all of them and 1 is one.
    return {key: float(value) if _batches(key) and value > 1 else value for key, value in flat.items()}


def _batches(key: str) -> bool:
    return key.startswith("trainer.limit_") and key.endswith("_batches")


def _flatten(config: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        elif value is not None:  # an option left alone is one that a newer version may have added
            flat[prefix + key] = value
    return flat


def identity(config: Mapping[str, Any]) -> str:
    """Return eight hexadecimal digits that name what determines the run's result."""
    return hashlib.sha256(_canonical(determining(config)).encode()).hexdigest()[:8]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def differences(there: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return a line for each determining option in which two configurations differ."""
    first, second = determining(there), determining(given)
    return [
        f"  {key}: {first.get(key)} there, {second.get(key)} given"
        for key in sorted(first.keys() | second.keys())
        if _canonical(first.get(key)) != _canonical(second.get(key))
    ]


def default_directory(config: Mapping[str, Any]) -> Path:
    """Return runs/<data>-<arch>-<seed>-<identity>."""
    data = config["data"]["class_path"].rpartition(".")[2].lower()
    name = f"{data}-{config['model']['arch']}-{config['seed_everything']}-{identity(config)}"
    return Path("runs") / name
