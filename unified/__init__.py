"""One transformer, many tasks: train, evaluate and share generalist perception foundation models."""

__version__ = "0.1.0.dev0"
