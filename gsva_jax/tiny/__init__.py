"""The lessons in which the shipped tiny model was taught (docs/tiny.md)."""
