"""State, step, loop, checkpoints and logging of a training run."""
