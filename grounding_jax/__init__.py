"""Foundations that both vision-language segmentation systems stand on; imports neither of them."""

__version__ = "0.1.0"  # of all three packages: they come in one wheel
