"""Where metrics go, and where they are read from: metrics.csv, and Weights & Biases."""
