"""The command `gsva`. Nothing heavy is imported before a command runs, so that help comes at once."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from grounding_jax.cli.commands import parse_command, run_command
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
    "`gsva COMMAND --help` explains a command and has examples; `gsva --version` prints the version. "
    "GSVA_DEBUG=1 shows where an error came from."
)
_parse = functools.partial(parse_command, "gsva", COMMANDS, _DESCRIPTION)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the words after `gsva`; those of the shell by default.

    Returns:
        The exit code: 1 if some pictures of many could not be done, 2 after an error, 130 after Ctrl-C.

    Raises:
        SystemExit: the words are no command (2), or ask for help (0).
    """
    return run_command("gsva", _parse, argv)
