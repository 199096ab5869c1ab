"""How the shipped model learns from scenes: what it starts with and its lessons (docs/tiny.md)."""
