"""A model's parameters, from mapped files to the devices that answer questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from grounding_jax.models import llama
from grounding_jax.sharding.mesh import MeshShape, make_mesh
from grounding_jax.sharding.rules import Rule, shardings


class Placed(NamedTuple):
    """A model on its devices: its parameters, their dtype, and the mesh; no mesh where all is on one device."""

    params: dict
    dtype: np.dtype
    mesh: Mesh | None


def place(params: dict, rules: Sequence[Rule], dtype=None, mesh: MeshShape | None = None) -> Placed:
    """Puts a model on devices, one leaf at a time.

    Args:
        params: nested dicts of arrays; the vocabulary of "llama", where there is one, grows until it divides over the
            mesh.
        rules: its sharding table.
        dtype: dtype of the result, or its name; by default float32 on CPU and bfloat16 elsewhere.
        mesh: layout of this process's devices; None takes one. A mesh of one device is none: it would be another
            program that does the same.

    Raises:
        ValueError: the mesh does not fit the devices or the model.
    """
    if dtype is None:
        dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    dtype = np.dtype(dtype)
    devices = None if mesh is None else make_mesh(mesh, jax.local_devices())
    if devices is None or devices.size == 1:
        return Placed(jax.tree.map(lambda leaf: _put(leaf, dtype), params), dtype, None)
    if "llama" in params:
        vocabulary, parts = params["llama"]["embed"]["embedding"].shape[0], devices.shape["tensor"]
        params = {**params, "llama": llama.resize_vocabulary(params["llama"], -(-vocabulary // parts) * parts)}
    layout = shardings(devices, rules, params)
    params = jax.tree.map(lambda leaf, where: _put(leaf, dtype, where), params, layout)
    return Placed(params, dtype, devices)


def _put(leaf: np.ndarray, dtype: np.dtype, where: NamedSharding | None = None) -> jax.Array:
    """An array on its devices; returns when it is there, so that the host holds one at a time."""
    return jax.device_put(np.asarray(leaf, dtype), where).block_until_ready()
