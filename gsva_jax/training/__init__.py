"""How GSVA is trained: its recipe, what is mixed for it, and the task that the loop trains."""
