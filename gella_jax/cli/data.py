"""`gella data`: scenes of our own, and checking and packing the public datasets."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, arg, subcommand

from grounding_jax.cli.commands import Composing, Packing
from grounding_jax.terminal import say


@dataclasses.dataclass(frozen=True)
class Scenes(Composing):
    """Compose pictures that are cut into things and stuff, with narrated captions and exact masks.

    They are laid out as COCO panoptic, PNG and RefCOCO: whatever the split is, "png|val2017", "panoptic|val2017",
    "coco_entity|val2017" and "refcoco|unc|val" read it. Split train is also "png|train2017" and so on, so that a folder
    may have it and one other split, then as val2017. Cut-outs are fetched when they are first needed.

    For example:
      gella data scenes --out SCENES --num 500 --seed 0 --split test
    """

    def run(self) -> int:
        """Writes the scenes."""
        from grounding_jax.data.scenes.write_narrated import write_narrated_scenes

        names = write_narrated_scenes(self.out, self.num, self.seed, self.split, self.size)
        say(f"{self.num} scenes of split {self.split} are in {self.out} as {' and '.join(names)}")
        return 0


@dataclasses.dataclass(frozen=True)
class Check:
    """Say which of GELLA's datasets are there, and what is missing of the others.

    Counts pictures and expressions, and reads one record of each dataset. In a packed folder, all checksums are
    compared. The exit code is 1 if no dataset is whole.

    For example:
      gella data check ROOT

    Attributes:
        root: the folder of all datasets (docs/data.md), or a packed folder.
    """

    root: Annotated[Positional[str], arg(metavar="ROOT")]

    def run(self) -> int:
        """Checks all that can be trained on or evaluated."""
        from grounding_jax.cli.datasets import show_datasets

        return 0 if show_datasets(self.root, _names(self.root)) else 1


@dataclasses.dataclass(frozen=True)
class Prepare(Packing):
    """Pack datasets into few large files, which are read faster, also from gs://.

    The packed folder takes the place of ROOT everywhere. Called again, it goes on where it stopped. The exit code is 1
    if a dataset that was named, or every dataset, could not be packed.

    For example:
      gella data prepare ROOT PACKED
      gella data prepare ROOT PACKED --datasets "png|train2017" "entityseg|train" --workers 2
    """

    def run(self) -> int:
        """Packs."""
        return self.pack(_names(self.root))


@dataclasses.dataclass(frozen=True)
class Data:
    """Make scenes, check datasets, or pack them.

    For example:
      gella data scenes --out SCENES --num 500 --seed 0 --split test
      gella data check ROOT
      gella data prepare ROOT PACKED

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


def _names(root: str) -> tuple[str, ...]:
    """The datasets that GELLA is trained and evaluated on, and the files of instructions that are there."""
    from grounding_jax.data.datasets import instruction_names
    from grounding_jax.data.sources.llava_instruct import LLAVA_DATASETS
    from grounding_jax.data.sources.refer import PRESENT_DATASETS
    from grounding_jax.data.sources.registry import ENTITY_DATASETS

    return (*ENTITY_DATASETS, *PRESENT_DATASETS, *LLAVA_DATASETS, *instruction_names(root))
