"""Evaluations of any system: going on where they stopped, and their numbers beside published ones."""
