"""How GELLA is trained: its recipe, and the task that the loop trains."""
