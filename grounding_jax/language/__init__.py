"""What both systems do with text: tokens, prompts as arrays, generation, answers."""
