"""`python -m gsva_jax.cli` is `gsva`."""

import sys

from gsva_jax.cli import main

sys.exit(main())
