"""A run's identity: what of a configuration determines the result, but for what is at its default; without torch."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What does not determine a run's result. Everything else in the configuration does.
_NOT_IDENTITY = {
    "": {"config", "run_dir", "fresh", "wandb", "verbose", "weights_only", "return_predictions", "checkpoint_minutes"},
    "model": {"activation_checkpointing"},
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

# An option at its default does not count, so that a new one changes no run. What stands here is what an option that a
# config.yaml lacks meant when it was written: a row is added with its option, and never changed. An option whose
# default is changed in the code counts from then on, also where nobody gives it.
DEFAULTS: dict[str, Any] = {
    "data.batch_size": 128,
    "data.crop_padding": 4,
    "data.crop_scale": 0.08,
    "data.cutout": 0,
    "data.device_decode": False,
    "data.eval_interpolation": "bilinear",
    "data.eval_resize": 256,
    "data.eval_size": 224,
    "data.on_corrupt": "error",
    "data.padding_mode": "zeros",
    "data.train_size": 224,
    "model.arch": "resnet20",
    "model.channels_last": False,
    "model.compile": False,
    "model.label_smoothing": 0.0,
    "model.optim.betas": [0.9, 0.999],
    "model.optim.decay_norm_and_bias": True,
    "model.optim.lr": 0.1,
    "model.optim.momentum": 0.9,
    "model.optim.name": "sgd",
    "model.optim.nesterov": False,
    "model.optim.weight_decay": 0.0001,
    "model.schedule.final": 0.0,
    "model.schedule.gamma": 0.1,
    "model.schedule.name": "step",
    "model.schedule.peak": 0.25,
    "model.schedule.unit": "epochs",
    "model.schedule.warmup": 0.0,
    "model.zero_init_residual": False,
    "seed_everything": 0,
    "trainer.accumulate_grad_batches": 1,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.fast_dev_run": False,
    "trainer.max_epochs": 164,
    "trainer.max_steps": -1,
    "trainer.overfit_batches": 0.0,
    "trainer.reload_dataloaders_every_n_epochs": 0,
    "trainer.sync_batchnorm": False,
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


def _counting(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the determining options that are not at their defaults; of a file of weights only that there is one.

    What is in it has a fingerprint, as the data has, whose place does not count either.
    """
    options = determining(config)
    if not str(options.get("model.weights", "torchvision:")).startswith("torchvision:"):
        options["model.weights"] = "a file"
    return {key: value for key, value in options.items() if value != _default(key)}


def _default(key: str) -> Any:
    """Return what an option means that is not given; of one of Lightning's that is newer than DEFAULTS its own."""
    if key in DEFAULTS or not key.startswith("trainer."):
        return DEFAULTS.get(key)
    return _trainer_defaults().get(key.removeprefix("trainer."))


@functools.cache
def _trainer_defaults() -> dict[str, Any]:
    """Return the Trainer's own defaults, read from its source, for importing it would import torch."""
    found = importlib.util.find_spec("lightning")
    assert found is not None
    assert found.submodule_search_locations
    path = Path(found.submodule_search_locations[0]) / "pytorch" / "trainer" / "trainer.py"
    for owner in ast.parse(path.read_text()).body:
        for node in owner.body if isinstance(owner, ast.ClassDef) and owner.name == "Trainer" else []:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                options, values = node.args.kwonlyargs, node.args.kw_defaults
                pairs = ((option.arg, value) for option, value in zip(options, values, strict=True))
                return {name: ast.literal_eval(v) for name, v in pairs if isinstance(v, ast.Constant)}
    return {}


def identity(config: Mapping[str, Any]) -> str:
    """Return eight hexadecimal digits that name what determines the run's result."""
    return hashlib.sha256(_canonical(_counting(config)).encode()).hexdigest()[:8]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def differences(there: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return a line for each determining option in which two configurations differ."""
    first, second = _counting(there), _counting(given)
    return [
        f"  {key}: {first.get(key, _default(key))} there, {second.get(key, _default(key))} given"
        for key in sorted(first.keys() | second.keys())
        if _canonical(first.get(key)) != _canonical(second.get(key))
    ]


def default_directory(config: Mapping[str, Any]) -> Path:
    """Return runs/<data>-<arch>-<seed>-<identity>."""
    data = config["data"]["class_path"].rpartition(".")[2].lower()
    name = f"{data}-{config['model']['arch']}-{config['seed_everything']}-{identity(config)}"
    return Path("runs") / name
