"""What the tasks of models with a language model have in common: their vocabulary and their model folders."""

from __future__ import annotations

import dataclasses
from typing import Any

from etils import epath

from grounding_jax.language.tokenizer import Tokenizer
from grounding_jax.models import llama
from grounding_jax.training.task import Task
from grounding_jax.weights import folder
from grounding_jax.weights.fresh import moved_vocabulary

VOCABULARY_MULTIPLE = 128


class LanguageTask(Task):
    """A task whose parameters have ``llama``; in training its vocabulary is padded, in model folders it is not.

    Attributes:
        model: sizes, those of a model folder.
        tokenizer: the vocabulary.
        token_rows: row of each token in the vocabulary of the start, see `tokenizer.with_targets`; empty: its own.
    """

    model: Any  # a frozen dataclass with ``llama`` and ``to_json``
    tokenizer: Tokenizer
    token_rows: tuple[int, ...] = ()

    @property
    def padded_vocabulary(self) -> int:
        """Rows of the embedding in training: a multiple that meshes divide."""
        return -(-self.model.llama.vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE

    @property
    def padded_model(self) -> Any:
        """Sizes in training."""
        padded = dataclasses.replace(self.model.llama, vocab_size=self.padded_vocabulary)
        return dataclasses.replace(self.model, llama=padded)

    def import_params(self, params: dict) -> dict:
        """The parameters of a model folder, which may have only some parts, with the vocabulary that is trained."""
        if self.token_rows and "llama" in params:
            params = {**params, "llama": moved_vocabulary(params["llama"], self.token_rows)}
        return _resized(params, self.padded_vocabulary)

    def save_model(self, place: epath.Path, params: dict) -> None:
        """Writes a model folder, without the padding of the vocabulary."""
        leaves = folder.from_params(_resized(params, self.model.llama.vocab_size))
        folder.save(place, leaves, self.model.to_json(), self.tokenizer.save)


def _resized(params: dict, vocab_size: int) -> dict:
    parts = {"llama": llama.resize_vocabulary(params["llama"], vocab_size)} if "llama" in params else {}
    return {**params, **parts}
