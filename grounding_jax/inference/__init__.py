"""A model in memory and what people hand to it."""
