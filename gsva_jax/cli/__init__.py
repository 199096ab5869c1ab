"""The command `gsva`. Nothing heavy is imported before a command runs, so that help comes at once."""

from __future__ import annotations

import dataclasses
import functools
import operator
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from grounding_jax.terminal import one_line
from gsva_jax.cli.answering import Ask, Segment
from gsva_jax.cli.checkpoints import Export, Import
from gsva_jax.cli.data import Data
from gsva_jax.cli.experiments import Evaluate, Train

COMMANDS = {
    "segment": Segment,
    "ask": Ask,
    "evaluate": Evaluate,
    "train": Train,
    "import": Import,
    "export": Export,
    "data": Data,
}
_DESCRIPTION = (
    "A picture and several expressions in; a mask for each, and a clear no for what is not there.\n\n"
    "`gsva COMMAND --help` explains a command and has examples. GSVA_DEBUG=1 shows where an error came from."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the words after `gsva`; those of the shell by default.

    Returns:
        The exit code: 1 if some pictures of many could not be done, 2 after an error, 130 after Ctrl-C.

    Raises:
        SystemExit: the words are no command (2), or ask for help (0).
    """
    try:
        return _parse(list(sys.argv[1:] if argv is None else argv)).run()
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as error:
        if os.environ.get("GSVA_DEBUG", "0") != "0":
            raise
        print(f"gsva: error: {one_line(error)}", file=sys.stderr)
        return 2


def _parse(argv: list[str]) -> Segment | Ask | Evaluate | Train | Import | Export | Data:
    """The command that is asked for, with its options."""
    if not argv or argv[0] not in COMMANDS:
        listed = (
            Annotated[command, tyro.conf.subcommand(name, description=command.__doc__.partition("\n")[0])]
            for name, command in COMMANDS.items()
        )
        return tyro.cli(functools.reduce(operator.or_, listed), prog="gsva", description=_DESCRIPTION, args=argv)
    command = COMMANDS[argv[0]]
    options = dict(prog=f"gsva {argv[0]}", args=argv[1:], config=(tyro.conf.FlagCreatePairsOff,))
    if command is not Train:
        return tyro.cli(command, **options)
    train, overrides = tyro.cli(Train, **options, return_unknown_args=True)
    return dataclasses.replace(train, overrides=tuple(overrides))
