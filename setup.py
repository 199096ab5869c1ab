"""Names the folders that make up the wheel; everything else about the project is in pyproject.toml.

`configs/gsva/` lies at the top of the repository, where people look for it, and becomes `gsva_jax/configs` in the
wheel, so that the bare name of a config works after installation. A TOML table cannot say both.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["grounding_jax*", "gsva_jax*", "gella_jax*"]), "gsva_jax.configs"],
    package_dir={"gsva_jax.configs": "configs/gsva"},
)
