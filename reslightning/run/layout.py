"""The names of a run directory's files, once."""

from __future__ import annotations

CONFIG, SUMMARY, METRICS = "config.yaml", "summary.json", "metrics.csv"
CHECKPOINTS, LAST, BEST = "checkpoints", "last.ckpt", "best.ckpt"
OTHERS = "callbacks"  # in checkpoints: what callbacks given by option write
EVALUATIONS, WANDB = "evaluations", "wandb"
CONFUSION, WORST, SUREST = "val-confusion.csv", "val-worst.png", "val-surest.png"  # in evaluations
GRADIENTS, GRADIENT_MAP = "gradients.csv", "gradients.png"  # in evaluations, by GradientFlow
LOCK, MISTAKE = "lock", "mistake"
