"""Random-access sources of examples, picture and mask transforms, and scenes of our own."""
