"""`gsva data`: scenes of our own, and checking and packing the public datasets."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, arg, subcommand

from grounding_jax.cli.commands import Composing, Packing
from grounding_jax.terminal import one_line, say, working


@dataclasses.dataclass(frozen=True)
class Scenes(Composing):
    """Compose pictures with exact masks and expressions of what is and isn't there.

    They are laid out as gRefCOCO, so that evaluation and training read them: split train is "grefcoco|unc|train", val
    "grefcoco|unc|val" and test "grefcoco|unc|testA". Cut-outs are fetched when they are first needed.

    For example:
      gsva data scenes --out SCENES --num 500 --seed 0 --split test
    """

    def run(self) -> int:
        """Writes the scenes."""
        from grounding_jax.data.scenes.write import write_scenes

        write_scenes(self.out, self.num, self.seed, self.split, self.size)
        say(f"{self.num} scenes of split {self.split} are in {self.out}")
        return 0


@dataclasses.dataclass(frozen=True)
class Check:
    """Say which datasets are there, what is missing, and which configs can be trained with them.

    Counts pictures and expressions, beside the published numbers of pictures where they are known, and reads one record
    of each dataset. In a packed folder, all checksums are compared. The exit code is 1 if no dataset is whole.

    For example:
      gsva data check ROOT

    Attributes:
        root: the folder of all datasets (docs/data.md), or a packed folder.
    """

    root: Annotated[Positional[str], arg(metavar="ROOT")]

    def run(self) -> int:
        """Checks all public datasets, and those that configs name."""
        from grounding_jax.cli.datasets import show_datasets
        from grounding_jax.data.sources.registry import KNOWN_DATASETS

        with working("loading the configs"):
            configs = _configs()
        names = dict.fromkeys((*KNOWN_DATASETS, *(name for config in configs for name in config.datasets)))
        whole = show_datasets(self.root, names)
        for config in configs:
            say(f"gsva train {config.name}: {config.verdict(whole)}")
        return 0 if whole else 1


@dataclasses.dataclass(frozen=True)
class Prepare(Packing):
    """Pack datasets into few large files, which training reads faster, also from gs://.

    The packed folder takes the place of ROOT everywhere: it gives the same records. Called again, what is complete is
    left as it is, and what was interrupted goes on. The exit code is 1 if a dataset that was named, or every dataset,
    could not be packed.

    For example:
      gsva data prepare ROOT PACKED
      gsva data prepare ROOT PACKED --datasets "refcoco|unc|train" "grefcoco|unc|train" --workers 2
    """

    def run(self) -> int:
        """Packs."""
        from grounding_jax.data.sources.registry import KNOWN_DATASETS

        return self.pack(KNOWN_DATASETS)


@dataclasses.dataclass(frozen=True)
class Data:
    """Make scenes, check datasets, or pack them.

    For example:
      gsva data scenes --out SCENES --num 500 --seed 0 --split test
      gsva data check ROOT
      gsva data prepare ROOT PACKED

    Attributes:
        what: scenes, check or prepare.
    """

    what: OmitArgPrefixes[
        OmitSubcommandPrefixes[
            Annotated[Scenes, subcommand("scenes")]
            | Annotated[Check, subcommand("check")]
            | Annotated[Prepare, subcommand("prepare")]
        ]
    ]

    def run(self) -> int:
        """Does it."""
        return self.what.run()


@dataclasses.dataclass(frozen=True)
class _Config:
    """What a config trains on: datasets, or nothing but scenes; or why it can't be loaded."""

    name: str
    datasets: tuple[str, ...] = ()
    problem: str | None = None

    def verdict(self, whole: set[str]) -> str:
        """Whether it can run with the datasets that are whole."""
        if self.problem is not None:
            return f"can't run: {self.problem}"
        lacking = [name for name in self.datasets if name not in whole]
        if lacking:
            return f"can't run: it needs {', '.join(lacking)}"
        return "can run" if self.datasets else "can run: it needs no data"


def _configs() -> list[_Config]:
    """The configs that come with the package."""
    from gsva_jax.training.experiment import GSVA, load_config

    configs = []
    for file in GSVA.config_files():
        try:
            configs.append(_Config(file.stem, load_config(file).recipe.datasets()))
        except (OSError, ValueError) as error:
            configs.append(_Config(file.stem, problem=one_line(error)))
    return configs
