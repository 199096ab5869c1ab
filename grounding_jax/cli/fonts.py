"""What a command says about letters that no font of this system has."""

from __future__ import annotations

from collections.abc import Iterable

from grounding_jax.terminal import note


def note_undrawable(texts: Iterable[str]) -> None:
    """Says which characters of texts in a picture show as boxes, if any do."""
    from grounding_jax.drawing.lettering import undrawable  # takes a moment

    missing = undrawable(" ".join(texts))
    if missing:
        note(f"no font of this system has {missing}: boxes stand for it in the overlay; Noto Sans CJK may help")
