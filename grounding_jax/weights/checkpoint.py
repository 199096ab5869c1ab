"""A whole model between checkpoints: what an import has put together and has not read yet."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from etils import epath
from flax import traverse_util

from grounding_jax.language.tokenizer import Tokenizer
from grounding_jax.weights import folder
from grounding_jax.weights.lora import has_lora
from grounding_jax.weights.sizes import Sizes
from grounding_jax.weights.table import Table, listed
from grounding_jax.weights.tensors import CheckpointError, LazyTensor
from grounding_jax.weights.writers import Progress


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A whole model that is not read yet.

    `config` is that of the system, `leaves` are our leaves by path, `tokenizer` has exactly as many tokens as they
    have rows, and `report` says in words what was found, made fresh or left out.
    """

    config: Any
    leaves: dict[str, LazyTensor]
    tokenizer: Tokenizer
    report: tuple[str, ...]

    def save(self, out: epath.PathLike, progress: Progress | None = None) -> tuple[str, ...]:
        """Writes a model folder; CheckpointError when one is there. Returns `report` and what was seen in writing."""
        non_finite = folder.save(out, self.leaves, self.config.to_json(), self.tokenizer.save, progress)
        if not non_finite:
            return self.report
        return *self.report, f"NaN or infinity in {listed(non_finite)}: this model can't give answers"


def part(leaves: Mapping[str, LazyTensor], prefix: str) -> dict[str, LazyTensor]:
    """The leaves whose paths start with `prefix`, without it."""
    return {path.removeprefix(prefix): leaf for path, leaf in leaves.items() if path.startswith(prefix)}


def prefixed(prefix: str, leaves: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The inverse of `part`."""
    return {f"{prefix}{path}": leaf for path, leaf in leaves.items()}


def read_part(
    table: Table, leaves: Mapping[str, LazyTensor], init: Callable, config: Any, where: epath.PathLike, dtype
) -> tuple[Any, dict]:
    """How the `load` of every architecture ends: holds the leaves against the config, and reads them.

    Args:
        table: names them in errors as the file does.
        leaves: our leaves by path.
        init: function `init(config, key)` of the architecture.
        config: its sizes.
        where: names the file in errors.
        dtype: see `folder.load`.

    Raises:
        CheckpointError: a leaf is missing, unknown or of another shape.
    """
    table.check_shapes(leaves, expected_shapes(init, config), str(where))
    return config, folder.to_params(leaves, dtype)


@functools.cache
def expected_shapes(init: Callable[[Any, jax.Array], dict], config: Any) -> Mapping[str, tuple[int, ...]]:
    """The shape of every leaf of a model of this config, by path, from its `init(config, key)`."""
    shapes = jax.eval_shape(lambda key: init(config, key), jax.random.key(0))
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items()}


def check_template(name: str, known: Mapping[str, Any]) -> None:
    """Raises CheckpointError for a conversation template that the system does not have."""
    if name not in known:
        raise CheckpointError(f"template {name}: unknown, known are {', '.join(known)}")


def check_tokenizer(tokenizer: Tokenizer, rows: int, where: str) -> None:
    """Raises CheckpointError unless a model folder has as many tokens as token rows."""
    if tokenizer.vocab_size != rows:
        raise CheckpointError(
            f"{where}: tokenizer.json has {tokenizer.vocab_size} tokens, the weights have {rows} rows"
        )


def closing_lines(config: Any, leaves: Mapping[str, LazyTensor], given: Sizes) -> list[str]:
    """How the report of every import ends: the template, LoRA, and keys of the sizes file without a meaning."""
    lora = f"rank {config.llama.lora_rank}, alpha {config.llama.lora_alpha}" if has_lora(leaves) else "none"
    lines = [f"template: {config.template}", f"LoRA: {lora}"]
    return lines + [f"sizes that set nothing: {', '.join(given.unused)}"] if given.unused else lines
