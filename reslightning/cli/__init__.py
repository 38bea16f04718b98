"""The command line of fit, validate, test and predict: options, configs, and which run a command means."""
