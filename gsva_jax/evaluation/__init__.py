"""GSVA on public datasets and on scenes."""
