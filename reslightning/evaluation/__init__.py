"""What is done with trained weights: validate, test, predict, and what a finished training leaves for the eye."""
