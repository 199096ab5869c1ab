"""`train` of both commands."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, Suppress, arg

from grounding_jax.terminal import keep_compiled_programs, note, optional, say

if TYPE_CHECKING:
    from grounding_jax.training.experiment import System


@dataclasses.dataclass(frozen=True)
class Training:
    """A command that trains what a config describes.

    Attributes:
        config: a config file, or the bare name of one that comes with the package.
        init: a model folder to start from, instead of what the config starts from.
        runs: folder of all runs.
        debug: take a few steps with the shipped tiny model and scenes, in batches that fit the devices: does the
            recipe run?
    """

    config: Annotated[Positional[str], arg(metavar="CONFIG")]
    _: dataclasses.KW_ONLY
    init: Annotated[str | None, optional("CKPT")] = None
    runs: Annotated[str, arg(metavar="RUNS")] = "runs"
    debug: bool = False
    overrides: Annotated[tuple[str, ...], Suppress] = ()

    def train(self, system: System) -> int:
        """Trains; on several hosts, each runs the same command."""
        from grounding_jax.training.experiment import run
        from grounding_jax.training.preemption import EXIT_PREEMPTED, Preempted

        keep_compiled_programs()  # a run that goes on has not to compile them again
        try:
            model = run(system, self.config, self.runs, self.init, self.overrides, self.debug)
        except Preempted as stop:
            note(str(stop))
            return EXIT_PREEMPTED
        say(f"the model folder {model} is complete")
        return 0
