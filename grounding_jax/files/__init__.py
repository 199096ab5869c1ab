"""The door: whatever comes from outside enters here, and whatever we write leaves here."""
