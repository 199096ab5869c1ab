"""What the answers of an evaluation depend on, as digests: another evaluation's are never taken for its own.

A digest of all weights, of every record and picture, and of the code that computes: whatever of it changes between two
calls, there are no numbers that mix what was before with what is now.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

import grounding_jax
from grounding_jax.files import digests
from grounding_jax.inference.engine import Engine

_SEEDS = (0, 0x9E3779B9)
_THREADS = 16  # that read pictures: mostly they wait for a disk or a bucket


class Records(Protocol):
    """A dataset, by the numbers of its pictures."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


def identity_of(
    engine: Engine | None, system: ModuleType, source: Records, given: Callable[[Any], Any] | None = None
) -> dict[str, str | None]:
    """Digests of what answers depend on.

    Args:
        engine: the model in memory; None if none is asked.
        system: the package that it is of.
        source: the dataset.
        given: anything that the model gets about a record besides its picture.

    Raises:
        FileNotFoundError, ValueError: a record is damaged, or a file of it is missing.
    """
    code = digests.of_code(grounding_jax, system)
    return {
        "model": None if engine is None else engine_digest(engine),
        "records": records_digest(source, given),
        "code": f"{code}, jax {jax.__version__} on {jax.default_backend()}",
    }


def engine_digest(engine: Engine) -> str:
    """Of the sizes, the dtype, the vocabulary and every number of the parameters; the same on every mesh."""
    tokens = engine.tokenizer
    special = [tokens.bos, tokens.eos, tokens.unk, tokens.seg, tokens.rej, tokens.im_start, tokens.im_end]
    texts = [engine.config.to_json(), str(np.dtype(engine.dtype)), tokens.backend.to_str()]
    return digests.of_all([digests.of_value([texts, special]), weights_digest(engine.params)])


def weights_digest(params: Any) -> str:
    """Of every number of the arrays in a tree; the same on every mesh."""
    return digests.of_value(jax.device_get(_sums(params)))


def records_digest(source: Records, given: Callable[[Any], Any] | None = None) -> str:
    """Of all records, what is in their files, and what is given with each; see `identity_of`."""

    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda index: digests.of_value(source[index]), range(len(source))))
    if given is not None:  # one after the other: they may all come from one large file
        found += [digests.of_value(given(source[index])) for index in range(len(source))]
    return digests.of_all([*found, digests.of_value(getattr(source, "categories", None))])


@jax.jit
def _sums(params: Any) -> Any:
    """Two sums uint32 ``[2]`` of every leaf, both of which any changed number changes.

    Zeros don't count, so that a vocabulary which was padded to divide over a mesh has the sums of the one that was not.
    """

    def sums(leaf: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}").astype(jnp.uint32)
        place = jnp.zeros(leaf.shape, jnp.uint32)
        for axis in range(leaf.ndim):
            place = _scrambled(place + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) + jnp.uint32(1))
        factors = (_scrambled(place ^ jnp.uint32(seed)) | 1 for seed in _SEEDS)  # odd: bits are never multiplied away
        return jnp.stack([(bits * factor).sum(dtype=jnp.uint32) for factor in factors])

    return jax.tree.map(sums, params)


def _scrambled(x: jax.Array) -> jax.Array:
    """Another number for every uint32, without any order: the end of MurmurHash3."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
