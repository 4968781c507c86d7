"""A run's folder: the workdir, checkpoints, logs, and reading finished runs."""
