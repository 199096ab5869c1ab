"""Foundations that both vision-language segmentation systems stand on; imports neither of them."""
