"""Mask metrics as sums and counts."""
