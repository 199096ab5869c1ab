"""One architecture a file: the names of its published weights against our paths, and its sizes from their shapes."""
