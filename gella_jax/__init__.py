"""GELLA: a picture, a caption and somebody's masks of entities in; which masks every noun of the caption means out."""
