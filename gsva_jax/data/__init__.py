"""From records and pictures to the arrays that the model is fed with."""
