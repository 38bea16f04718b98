"""Training: the LightningModule, optimizers, one segment of a run and what watches it."""
