"""Device meshes, strict rules of how parameters lie on them, and starting on several hosts."""
