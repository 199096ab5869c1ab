"""The device mesh: axes ``data``, ``fsdp`` and ``tensor``, and how batches lie on it.

``data`` repeats the parameters, ``fsdp`` splits them and gathers them layer by layer, ``tensor`` splits the work inside
a layer. Batches are split over ``data`` and ``fsdp``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Devices along each axis; one of them may be -1 for the rest.

    Attributes:
        data: copies of the parameters; a pod of several slices has at least one a slice.
        fsdp: parts that the parameters are split into.
        tensor: parts that the work inside a layer is split into.
    """

    data: int = 1
    fsdp: int = -1
    tensor: int = 1

    def resolve(self, devices: int) -> tuple[int, int, int]:
        """The three sizes for a number of devices.

        Raises:
            ValueError: they do not multiply to that number.
        """
        sizes = (self.data, self.fsdp, self.tensor)
        known = math.prod(size for size in sizes if size != -1)
        open_axes = sizes.count(-1)
        if any(size < 1 for size in sizes if size != -1) or open_axes > 1:
            raise ValueError(f"{self}: sizes are positive, and one of them may be -1 for the rest")
        if devices % known or (not open_axes and known != devices):
            raise ValueError(f"{self} does not fit {devices} devices: the sizes must multiply to that number")
        return tuple(devices // known if size == -1 else size for size in sizes)


def make_mesh(shape: MeshShape, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Lays devices out as a mesh, so that neighbours in ``tensor`` and ``fsdp`` are neighbours in the network.

    Args:
        shape: see `MeshShape`.
        devices: all of the process group by default; those of several slices are split along ``data``.

    Raises:
        ValueError: the shape does not fit the devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = shape.resolve(len(devices))
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1:
        if sizes[0] % slices:
            raise ValueError(f"{shape}: data = {sizes[0]} is no multiple of the {slices} slices")
        inside = (sizes[0] // slices, *sizes[1:])
        array = mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1), devices, allow_split_physical_axes=True)
    elif devices[0].platform == "tpu":
        array = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    else:
        array = np.array(devices).reshape(sizes)
    return Mesh(array, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def num_rows(mesh: Mesh | None) -> int:
    """Over how many devices the rows of a batch are split; None is one device."""
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def split_batch(mesh: Mesh | None, batch: _T) -> _T:
    """The arrays of a batch, whose rows divide by `num_rows`, split over a mesh; as they are on one device."""
    return batch if mesh is None else jax.device_put(batch, NamedSharding(mesh, BATCH))


def check_batch(mesh: Mesh, batch_size: int, parts: int = 1) -> None:
    """Raises ValueError unless a batch, cut into ``parts`` micro-batches, divides over ``data`` and ``fsdp``."""
    rows = num_rows(mesh)
    if batch_size % (rows * parts):
        parted = f" in {parts} micro-batches" if parts > 1 else ""
        raise ValueError(
            f"a batch of {batch_size}{parted} does not divide over {rows} devices (data {mesh.shape['data']} x fsdp "
            f"{mesh.shape['fsdp']}): make it a multiple of {rows * parts}"
        )


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """Which rows of a global batch this process has to load, in ascending order."""
    indices = NamedSharding(mesh, BATCH).addressable_devices_indices_map((batch_size,))
    return sorted({row for (part,) in filter(None, indices.values()) for row in range(*part.indices(batch_size))})


def global_batch(
    mesh: Mesh, batch_size: int, rows: Sequence[int], local: dict[str, np.ndarray]
) -> dict[str, jax.Array]:
    """The rows that this process loaded, as arrays of the whole batch that span all processes.

    Args:
        mesh: mesh that the arrays go to.
        batch_size: B.
        rows: their numbers, from `local_rows`.
        local: arrays ``[len(rows), ...]``.

    Returns:
        Arrays ``[B, ...]``, split over ``data`` and ``fsdp``.
    """
    sharding = NamedSharding(mesh, BATCH)
    place = {row: k for k, row in enumerate(rows)}

    # Not jax.make_array_from_process_local_data, which refuses meshes in which two hosts share some of their rows only.
    def spread(array: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(batch_size)
            return array[place[start] : place[stop - 1] + 1]

        return jax.make_array_from_callback((batch_size, *array.shape[1:]), sharding, part)

    return jax.tree.map(spread, local)
