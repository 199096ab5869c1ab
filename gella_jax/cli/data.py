"""`gella data`: checking and packing the public datasets."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, arg, subcommand

from grounding_jax.commands import Packing


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
        from grounding_jax.checking import show_datasets

        return 0 if show_datasets(self.root, _names()) else 1


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
        return self.pack(_names())


@dataclasses.dataclass(frozen=True)
class Data:
    """Check datasets, or pack them.

    For example:
      gella data check ROOT
      gella data prepare ROOT PACKED

    Attributes:
        what: check or prepare.
    """

    what: OmitArgPrefixes[
        OmitSubcommandPrefixes[Annotated[Check, subcommand("check")] | Annotated[Prepare, subcommand("prepare")]]
    ]

    def run(self) -> int:
        """Does it."""
        return self.what.run()


def _names() -> tuple[str, ...]:
    from grounding_jax.data.sources.refer import PRESENT_DATASETS
    from grounding_jax.data.sources.registry import ENTITY_DATASETS

    return (*ENTITY_DATASETS, *PRESENT_DATASETS)
