"""The command `gella`. Nothing heavy is imported before a command runs, so that help comes at once."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from gella_jax.cli.answering import Describe, NounsCommand, PanopticCommand, Refer
from gella_jax.cli.checkpoints import Export, Import
from gella_jax.cli.data import Data
from gella_jax.cli.experiments import Evaluate, Train
from gella_jax.cli.grounding import Ground
from grounding_jax.cli.commands import parse_command, run_command

COMMANDS = {
    "describe": Describe,
    "nouns": NounsCommand,
    "ground": Ground,
    "refer": Refer,
    "panoptic": PanopticCommand,
    "evaluate": Evaluate,
    "train": Train,
    "import": Import,
    "export": Export,
    "data": Data,
}
_DESCRIPTION = (
    "A picture, a caption and anybody's masks in; which of the masks every noun of the caption means out.\n\n"
    "`gella COMMAND --help` explains a command and has examples; `gella --version` prints the version. "
    "GELLA_DEBUG=1 shows where an error came from."
)
_parse = functools.partial(parse_command, "gella", COMMANDS, _DESCRIPTION)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the words after `gella`; those of the shell by default.

    Returns:
        The exit code: 1 if some pictures of many could not be done, 2 after an error, 130 after Ctrl-C.

    Raises:
        SystemExit: the words are no command (2), or ask for help (0).
    """
    return run_command("gella", _parse, argv)
