"""PyTorch checkpoints in and out: safe readers, two-way tables, streaming writers, our model folder."""
