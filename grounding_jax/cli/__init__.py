"""What the commands of both systems do alike."""
