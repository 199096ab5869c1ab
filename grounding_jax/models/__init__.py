"""Architectures, one a file: configuration, primitives, blocks, model; no files, datasets or meshes."""
