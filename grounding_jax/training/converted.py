"""Model folders that were made of checkpoints, RUN/model-STEP: each says of which, and is not taken for another's.

A run that is trained again in the same folder has other checkpoints of the same steps.
"""

from __future__ import annotations

from etils import epath

from grounding_jax.files import digests
from grounding_jax.files.text import read_text
from grounding_jax.files.writing import write_text
from grounding_jax.training.run_folder import CHECKPOINTS, RESULT, comparable, read_identity
from grounding_jax.weights.folder import CONFIG_FILE

_SMALL = 1 << 20  # bytes of a file of a checkpoint that is read: the large ones have names of their own in each save


def place(run: epath.Path, step: int) -> epath.Path:
    """Where the model folder of a step is, if there is one."""
    return run / f"{RESULT}-{step}"


def is_current(run: epath.Path, step: int) -> bool:
    """Whether the model folder of a step is there, and made of the checkpoint that the run has now.

    It stays so when the run deletes the checkpoint, but not when it becomes another run, or its note is damaged.
    """
    note = _note(run, step)
    if not (place(run, step) / CONFIG_FILE).exists() or not note.exists():
        return False
    try:
        identity, checkpoint = read_text(note).split()
    except ValueError:  # not two words, or no text
        return False
    return identity == _identity(run) and _checkpoint(run, step) in (checkpoint, None)


def write_note(run: epath.Path, step: int) -> None:
    """Notes beside a model folder of what it was made."""
    write_text(_note(run, step), f"{_identity(run)} {_checkpoint(run, step)}\n")


def _note(run: epath.Path, step: int) -> epath.Path:
    return run / f"{RESULT}-{step}.made_of"


def _identity(run: epath.Path) -> str:
    return digests.of_value(comparable(read_identity(run)))


def _checkpoint(run: epath.Path, step: int) -> str | None:
    """A digest of what tells a checkpoint from others; None if it is not there."""
    folder = run / CHECKPOINTS / str(step)
    if not folder.exists():
        return None
    sizes = [(file, file.stat().length) for file in digests.files_below(folder)]
    return digests.of_value(
        [
            [str(file.relative_to(folder)), size, digests.of_file(file) if size <= _SMALL else None]
            for file, size in sizes
        ]
    )
