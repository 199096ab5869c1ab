"""GELLA on public datasets."""
