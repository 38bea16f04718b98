"""A run: its directory, its one writer, what it says of itself, and what makes two runs the same; without torch."""
