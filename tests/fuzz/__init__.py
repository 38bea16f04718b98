"""Command lines that nobody wrote, and what must be true of each."""
