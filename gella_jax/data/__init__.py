"""From pictures and masks to the arrays that the model is fed with."""
