"""Names the folders that make up the wheel; everything else about the project is in pyproject.toml.

`configs/gsva/` and `configs/gella/` lie at the top of the repository, where people look for them, and become
`gsva_jax/configs` and `gella_jax/configs` in the wheel, so that the bare name of a config works after installation. A
TOML table cannot say both.
"""

from setuptools import find_packages, setup

CONFIGS = {"gsva_jax.configs": "configs/gsva", "gella_jax.configs": "configs/gella"}

setup(
    packages=[*find_packages(include=["grounding_jax*", "gsva_jax*", "gella_jax*"]), *CONFIGS],
    package_dir=CONFIGS,
)
