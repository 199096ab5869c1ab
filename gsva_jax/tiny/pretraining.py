"""What the tiny model's two pairs of eyes learn from scenes before they meet language (docs/tiny.md).

A 7B GSVA starts from a SAM and a CLIP that others trained on millions of pictures. Ours start from nothing, so each
first learns to see: `MaskPretraining` teaches SAM to cut out what a prompt means, `EyePretraining` teaches the tower
what and where things are. Both use layers of their own (``helpers``) that the shipped model does not keep.
"""

from __future__ import annotations

import dataclasses

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from flax import linen as nn
from tyro.conf import Suppress

from grounding_jax.data.picture_resize import clip_crop
from grounding_jax.data.scenes.compose import Scene, SceneSource
from grounding_jax.data.scenes.cutouts import KIND_IDS, KINDS
from grounding_jax.data.scenes.expressions import PLACE_GAP, SIZE_RATIO
from grounding_jax.models import clip, sam
from grounding_jax.models.clip import ClipConfig
from grounding_jax.models.layers import Linear, Mlp, layer_norm
from grounding_jax.models.mask_resize import resize_matrix
from grounding_jax.models.normalize import normalize_clip, normalize_sam
from grounding_jax.sharding.rules import REPLICATED, Rule
from grounding_jax.training.task import Recipe, Task
from grounding_jax.weights import folder
from gsva_jax.config import GsvaConfig
from gsva_jax.data.arrays import canvas_masks
from gsva_jax.losses import resized_mask_terms

BACKGROUND = len(KINDS)
MAX_OBJECTS = 8
ENDLESS = 2**31  # scenes are made on the fly, so an epoch never ends
EXTREMES = ("left", "right", "top", "bottom", "largest", "smallest")
OBJECT_WEIGHT = 4.0  # of a cell on an object against one on the background


def object_arrays(scene: Scene) -> dict[str, np.ndarray]:
    """A scene's objects as arrays padded to `MAX_OBJECTS`.

    Returns:
        ``kind`` int32 ``[8]`` (`BACKGROUND` where there is none); ``box`` float32 ``[8, 5]``: centre x, centre y,
        width, height and visible area as fractions of the side (area: of the picture); ``extreme`` int8 ``[8, 6]``: is
        it the `EXTREMES` one of its kind, -1 where there is no clear answer.
    """
    side = scene.image.shape[0]
    num = len(scene.objects)
    kind = np.full(MAX_OBJECTS, BACKGROUND, np.int32)
    box = np.zeros((MAX_OBJECTS, 5), np.float32)
    kind[:num] = [KIND_IDS[thing.kind] for thing in scene.objects]
    corners = np.array([thing.box for thing in scene.objects], np.float32) / side
    box[:num, :2] = (corners[:, :2] + corners[:, 2:]) / 2
    box[:num, 2:4] = corners[:, 2:] - corners[:, :2]
    box[:num, 4] = [thing.area / side**2 for thing in scene.objects]
    extreme = np.full((MAX_OBJECTS, 6), -1, np.int8)
    for k in range(num):
        others = [j for j in range(num) if j != k and kind[j] == kind[k]]
        if others:
            extreme[k] = _extremes(box[k], box[others])
    return {"kind": kind, "box": box, "extreme": extreme}


def _extremes(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The row of ``extreme`` for one object: int8 ``[6]``."""
    log_ratio = np.log(SIZE_RATIO)
    scores = np.stack(
        [
            -others[:, 0],
            others[:, 0],
            -others[:, 1],
            others[:, 1],
            np.log(others[:, 4]),
            -np.log(others[:, 4]),
        ]
    )
    mine = np.array([-own[0], own[0], -own[1], own[1], np.log(own[4]), -np.log(own[4])])
    lead = mine - scores.max(1)
    margin = np.array([PLACE_GAP] * 4 + [log_ratio] * 2)
    return np.where(lead >= margin, 1, np.where(lead <= -margin, 0, -1)).astype(np.int8)


def owner_map(scene: Scene) -> np.ndarray:
    """Index of the object that is visible at each pixel, -1 for the background: int8 ``[S, S]``."""
    owner = np.full(scene.image.shape[:2], -1, np.int8)
    for k, thing in enumerate(scene.objects):
        owner[thing.mask] = k
    return owner


def cell_owners(owner: np.ndarray, grid: int) -> np.ndarray:
    """The owner at the centre of every cell of a grid: int8 ``[grid, grid]``."""
    centres = ((np.arange(grid) + 0.5) * len(owner) / grid).astype(int)
    return owner[centres[:, None], centres[None, :]]


def patch_owners(scene: Scene, config: ClipConfig) -> np.ndarray:
    """The owner at the centre of every patch of the tower: int8 ``[P]``, -1 for the background."""
    return cell_owners(owner_map(scene), config.image_size // config.patch_size).reshape(-1)


def patch_values(values: np.ndarray, owner: np.ndarray, background) -> np.ndarray:
    """What an array ``[objects, ...]`` says about the owner of each patch: ``[P, ...]``."""
    outside = (owner < 0).reshape(-1, *[1] * (values.ndim - 1))
    return np.where(outside, background, values[owner]).astype(values.dtype)


class Teacher(nn.Module):
    """The prompt for a kind, or for one object of it where a box is given; what the language model will imitate."""

    width: int

    @nn.compact
    def __call__(self, kind: jax.Array, box: jax.Array, use_box: jax.Array) -> jax.Array:
        """``int32 [...], float32 [..., 5], bool [...] -> [..., width]``."""
        kinds = nn.Embed(len(KINDS) + 1, self.width, name="kinds")(kind)
        boxes = Mlp(2 * self.width, self.width, "gelu", name="boxes")(box_features(box))
        everywhere = self.param("everywhere", nn.initializers.normal(0.5), (self.width,))
        return Mlp(2 * self.width, self.width, "gelu", name="mix")(
            kinds + jnp.where(use_box[..., None], boxes, everywhere)
        )


def box_features(box: jax.Array) -> jax.Array:
    """Waves of the centre and logarithms of the extent and area: ``[..., 5] -> [..., 27]``."""
    angle = 2 * jnp.pi * box[..., :2, None] * jnp.array([0.25, 0.5, 1.0, 2.0, 3.0, 4.0])
    waves = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    size = jnp.log(box[..., 2:] + 0.01)
    return jnp.concatenate([waves.reshape(*box.shape[:-1], 24), size], axis=-1)


def cell_class_loss(logits: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross entropy of the kind at each cell, objects weighted, and the accuracy on objects."""
    weight = jnp.where(target == BACKGROUND, 1.0, OBJECT_WEIGHT)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, target)
    on_object = target != BACKGROUND
    accuracy = ((logits.argmax(-1) == target) & on_object).sum() / jnp.maximum(on_object.sum(), 1)
    return (loss * weight).sum() / weight.sum(), accuracy


@dataclasses.dataclass(frozen=True)
class MaskPretraining(Task, Recipe):
    """SAM learns to cut out what a prompt means: all of a kind, or one object of it.

    Attributes:
        model: sizes of the parts; only ``model.sam`` is trained.
        prompts: prompts of a scene, each for all of a kind or for one object.
        split: objects and backgrounds of the scenes: "train", "val" or "test".
        trainable, export_keys: see `Task`.
    """

    model: Suppress[GsvaConfig]
    prompts: int = 4
    split: str = "train"
    trainable: Suppress[tuple[str, ...]] = ("sam/(image_encoder|mask_decoder)", "helpers")
    export_keys: Suppress[tuple[str, ...]] = ("sam", "helpers")

    def init(self, key: jax.Array) -> dict:
        """Random SAM and helpers."""
        keys = jax.random.split(key, 3)
        width = self.model.sam.prompt_width
        kind, box = jnp.zeros((1,), jnp.int32), jnp.ones((1, 5))
        return {
            "sam": sam.init(self.model.sam, keys[0]),
            "helpers": {
                "teacher": Teacher(width).init(keys[1], kind, box, kind > 0)["params"],
                "cell_class": Linear(len(KINDS) + 1).init(keys[2], jnp.zeros((1, width)))["params"],
            },
        }

    def sharding(self) -> tuple[Rule, ...]:
        """Small enough to be whole everywhere."""
        return ((".*", REPLICATED),)

    def save_model(self, place: epath.Path, params: dict) -> None:
        """Writes a model folder without a vocabulary."""
        folder.save(place, folder.from_params(params), self.model.to_json())

    def examples(self, seed: int) -> grain.MapDataset:
        """Scenes with prompts drawn from their objects."""
        source = SceneSource(seed, self.split, ENDLESS, self.model.sam.image_size)
        return grain.MapDataset.source(source).seed(seed).random_map(self.example)

    def example(self, scene: Scene, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One scene as arrays."""
        things = object_arrays(scene)
        owner = owner_map(scene)
        chosen = rng.integers(0, len(scene.objects), self.prompts)
        use_box = rng.random(self.prompts) < 0.6
        same = things["kind"][chosen][:, None] == things["kind"][None, : len(scene.objects)]
        meant = np.where(use_box[:, None], np.arange(len(scene.objects)) == chosen[:, None], same)
        masks = np.stack([np.isin(owner, np.flatnonzero(row)) for row in meant])
        cells = cell_owners(owner, self.model.sam.grid)
        return {
            "image": scene.image,
            "kind": things["kind"][chosen],
            "box": things["box"][chosen],
            "use_box": use_box,
            "masks": canvas_masks(masks, self.model.sam.image_size, self.prompts),
            "cell_class": np.where(cells < 0, BACKGROUND, things["kind"][cells]),
        }

    def loss(self, params: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Kind of every cell, and the masks of the prompts."""
        c = self.model.sam
        side = jnp.full((len(batch["image"]), 2), c.image_size)
        image, _ = sam.encode_image(c, params["sam"], normalize_sam(batch["image"], side))
        B, M = batch["kind"].shape
        prompts = teach(params, c.prompt_width, batch["kind"], batch["box"], batch["use_box"])
        low, _ = sam.predict_masks(c, params["sam"], jnp.repeat(image, M, axis=0), text=prompts.reshape(B * M, 1, -1))
        low = low.reshape(B, M, c.low_res, c.low_res)
        rows = jnp.broadcast_to(resize_matrix(c.image_size, c.low_res), (B, c.image_size, c.low_res))
        inside = jnp.ones((B, c.image_size, c.image_size), bool)
        bce, dice = resized_mask_terms(low, rows, rows, inside, batch["masks"])
        logits = Linear(len(KINDS) + 1).apply({"params": params["helpers"]["cell_class"]}, image)
        cell_loss, accuracy = cell_class_loss(logits, batch["cell_class"])
        scalars = {"bce": bce.mean(), "dice": dice.mean(), "cell_loss": cell_loss, "cell_accuracy": accuracy}
        boxed = batch["use_box"]
        scalars["dice_box"] = jnp.where(boxed, dice, 0).sum() / jnp.maximum(boxed.sum(), 1)
        return cell_loss + 2 * bce.mean() + dice.mean(), scalars


def teach(params: dict, width: int, kind: jax.Array, box: jax.Array, use_box: jax.Array) -> jax.Array:
    """The trained `Teacher` of a parameter tree with ``helpers``."""
    return Teacher(width).apply({"params": params["helpers"]["teacher"]}, kind, box, use_box)


@dataclasses.dataclass(frozen=True)
class EyePretraining(Task, Recipe):
    """The tower learns, for every patch: what is there, how far its object extends, and how it compares to its like.

    Attributes:
        model: sizes of the parts; only ``model.clip`` is trained.
        size: side of the scenes in pixels, before they are scaled to the tower's.
        split: objects and backgrounds of the scenes: "train", "val" or "test".
        trainable, export_keys: see `Task`.
    """

    model: Suppress[GsvaConfig]
    size: int = 144
    split: str = "train"
    trainable: Suppress[tuple[str, ...]] = ("clip", "helpers")
    export_keys: Suppress[tuple[str, ...]] = ("clip",)

    def init(self, key: jax.Array) -> dict:
        """Random tower and helpers."""
        keys = jax.random.split(key, 2)
        head = PatchHead(len(KINDS) + 1)
        patches = jnp.zeros((1, self.model.clip.width))
        return {
            "clip": clip.init(self.model.clip, keys[0]),
            "helpers": {"patches": head.init(keys[1], patches)["params"]},
        }

    def sharding(self) -> tuple[Rule, ...]:
        """Small enough to be whole everywhere."""
        return ((".*", REPLICATED),)

    def save_model(self, place: epath.Path, params: dict) -> None:
        """Writes a model folder without a vocabulary."""
        folder.save(place, folder.from_params(params), self.model.to_json())

    def examples(self, seed: int) -> grain.MapDataset:
        """Scenes with what every patch should know."""
        return grain.MapDataset.source(SceneSource(seed + 1, self.split, ENDLESS, self.size)).map(self.example)

    def example(self, scene: Scene) -> dict[str, np.ndarray]:
        """One scene as arrays."""
        things = object_arrays(scene)
        c = self.model.clip
        grid = c.image_size // c.patch_size
        owner = patch_owners(scene, c)
        centres = (np.arange(grid, dtype=np.float32) + 0.5) / grid
        own = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)
        box = things["box"][owner]
        extent = np.log(np.maximum(box[:, 2:], 1e-3))
        return {
            "image": clip_crop(scene.image, c.image_size),
            "cell_class": patch_values(things["kind"], owner, BACKGROUND),
            "geometry": np.concatenate([4 * (box[:, :2] - own), extent], axis=1),
            "extreme": patch_values(things["extreme"], owner, -1),
        }

    def loss(self, params: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Kind, geometry and comparisons of every patch."""
        c = self.model.clip
        features = clip.patch_features(c, params["clip"], normalize_clip(batch["image"]), self.model.select_layer)
        head = PatchHead(len(KINDS) + 1)
        logits, geometry, extreme = head.apply({"params": params["helpers"]["patches"]}, features)
        cell_loss, accuracy = cell_class_loss(logits, batch["cell_class"])
        on_object = batch["cell_class"] != BACKGROUND
        distance = jnp.abs(geometry - batch["geometry"]).mean(-1)
        distance = jnp.where(on_object, distance, 0).sum() / on_object.sum()
        known = batch["extreme"] >= 0
        answer = batch["extreme"] == 1
        comparison = optax.sigmoid_binary_cross_entropy(extreme, answer.astype(jnp.float32))
        per_question = jnp.where(known, comparison, 0).sum((0, 1)) / jnp.maximum(known.sum((0, 1)), 1)
        right = (known & ((extreme > 0) == answer)).sum((0, 1)) / jnp.maximum(known.sum((0, 1)), 1)
        scalars = {
            "cell_loss": cell_loss,
            "cell_accuracy": accuracy,
            "distance": distance,
            "place_accuracy": right[:4].mean(),
            "size_accuracy": right[4:].mean(),
        }
        return cell_loss + distance + per_question.mean(), scalars


class PatchHead(nn.Module):
    """Reads kind, geometry and the six comparisons off one patch."""

    classes: int

    @nn.compact
    def __call__(self, x):
        """``[..., D] -> ([..., classes], [..., 5], [..., 6])``."""
        x = layer_norm(x, 1e-5, "norm")
        heads = (("kind", self.classes), ("geometry", 5), ("extreme", 6))
        return tuple(Linear(features, name=name)(x) for name, features in heads)
