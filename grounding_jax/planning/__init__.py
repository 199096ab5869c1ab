"""What a run takes, known before anything is rented."""
