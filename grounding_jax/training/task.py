"""What is trained: a recipe, which is data, and the task that it becomes together with a model to start from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import grain
import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from grounding_jax.sharding.rules import Rule
from grounding_jax.training.options import TrainOptions
from grounding_jax.weights import folder


class Work(NamedTuple):
    """What an example of a task takes, for the speeds in the log; 0 where it was not counted.

    Attributes:
        tokens: slots of text.
        flops: useful arithmetic of an update, without what is computed twice.
    """

    tokens: int = 0
    flops: int = 0


class Task:
    """Parameters, examples and a loss: all that the loop needs to know. Subclasses are frozen dataclasses.

    Attributes:
        trainable: regular expressions on parameter paths: what is trained, in float32; the rest is frozen.
        export_keys: top-level names of the parameters that the result has.
        start_keys: top-level names of parameters that the task reads where its start has them, without an `init` of
            their own; they stay frozen and lie whole on every device.
        best_metric: the score that tells which checkpoint is best, the higher the better; empty without validation.
    """

    trainable: tuple[str, ...]
    export_keys: tuple[str, ...]
    start_keys: ClassVar[tuple[str, ...]] = ()
    best_metric: str = ""

    def init(self, key: jax.Array) -> dict:
        """The whole parameter tree at step 0."""
        raise NotImplementedError

    def sharding(self) -> Sequence[Rule]:
        """How the parameter tree lies on a mesh; see `rules.shardings`."""
        raise NotImplementedError

    def examples(self, seed: int) -> grain.MapDataset:
        """Examples as dicts of arrays of fixed shapes; number i is a function of (seed, i)."""
        raise NotImplementedError

    def loss(self, params: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The scalar to be minimised, a mean over rows, and scalars to be logged.

        What is random in a row is a function of ``key``, which is that of the update, and of the row's number in
        ``batch["example"]``: so it does not depend on micro-batches, devices and hosts.
        """
        raise NotImplementedError

    def prepare(self, batch: dict) -> dict:
        """Adds what rows need of the others of their batch, before it is cut into micro-batches; by default nothing."""
        return batch

    def work(self) -> Work:
        """Counts for the log what an example takes."""
        return Work()

    def on_start(self, params: dict, mesh: Mesh) -> None:
        """Called before the first example is read, such as to fill a cache."""

    def validation_dataset(self) -> grain.MapDataset | None:
        """Examples that are not trained on, the same at every call; None for a training without validation."""
        return None

    def measure(self, params: dict, batch: dict) -> tuple[dict[str, tuple[jax.Array, jax.Array]], dict[str, jax.Array]]:
        """Scores a batch of the validation: a sum and a count of each score, and whatever `draw` needs of each row."""
        raise NotImplementedError

    def draw(self, example: dict[str, np.ndarray], shown: dict[str, np.ndarray]) -> np.ndarray:
        """The picture, uint8 ``[H, W, 3]``, of an example of the validation and of what `measure` gave for it."""
        raise NotImplementedError

    def read_start(self, place: epath.Path) -> dict:
        """The parameters of a folder of `save_model`, or of a model to start from, in float32."""
        return folder.load(place, np.dtype(np.float32))

    def import_params(self, params: dict) -> dict:
        """The parameters of a model folder, which may have only some parts, as they are trained."""
        return params

    def save_model(self, place: epath.Path, params: dict) -> None:
        """Writes a model folder of the parameters named in ``export_keys``, on the host and in their final dtype."""
        raise NotImplementedError


class Recipe:
    """What a config says about a training apart from its options, and what a run folder keeps of it as JSON.

    Subclasses are frozen dataclasses of numbers, strings, tuples and dataclasses of those. Each has a name, its kind,
    in the `System` that it belongs to. A task that is nothing but data is its own recipe.

    Attributes:
        may_change: names of fields in which two calls of one run may differ.
    """

    may_change: ClassVar[tuple[str, ...]] = ()

    def task(self, start: epath.Path | None) -> Task:
        """The task, for a model folder to start from.

        Args:
            start: the last of the folders that a run starts from; None if it starts from nothing.

        Raises:
            ValueError: there has to be one, or it does not fit.
        """
        assert isinstance(self, Task), f"{type(self).__name__} has to say how it becomes a task"
        return self

    def steps(self, options: TrainOptions) -> int:
        """Updates in all; by default those of the options."""
        return options.steps

    def debugged(self) -> Recipe:
        """The same with the shipped model and its data, as far as they allow."""
        return self

    def datasets(self) -> tuple[str, ...]:
        """Names of the datasets that have to be there."""
        return ()
