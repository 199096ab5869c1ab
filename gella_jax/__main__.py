"""`python -m gella_jax` is `gella`."""

import sys

from gella_jax.cli import main

sys.exit(main())
