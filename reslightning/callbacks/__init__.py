"""What watches a training: checkpoints and rows, signals, speed."""
