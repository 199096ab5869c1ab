"""`python -m gella_jax.cli` is `gella`."""

import sys

from gella_jax.cli import main

sys.exit(main())
