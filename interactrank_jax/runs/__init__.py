"""Run directories: the config, the encoder and the best model of a training."""
