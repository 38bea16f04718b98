"""Slurm: what a job was given, how its tasks are started and start again, and its nodes' own storage."""
