"""Pictures of our own with exact masks, and what can be said about them."""
