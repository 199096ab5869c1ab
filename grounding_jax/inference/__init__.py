"""A model in memory that is asked about pictures."""
