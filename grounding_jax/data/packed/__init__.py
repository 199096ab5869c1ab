"""Datasets in few large files, which are read faster than very many small ones."""
