"""Masks and captions as pictures that people look at."""
