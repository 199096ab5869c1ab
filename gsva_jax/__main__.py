"""`python -m gsva_jax` is `gsva`."""

import sys

from gsva_jax.cli import main

sys.exit(main())
