"""Narrated scenes: things in front of stuff, every pixel in one entity, and a caption with phrases that mean them."""

import dataclasses

import numpy as np

from grounding_jax.data.scenes.backgrounds import BACKDROPS, SPLITS, draw_backdrop
from grounding_jax.data.scenes.compose import SceneObject, SceneSource, check_split, compose, visible_object
from grounding_jax.data.scenes.cutouts import KINDS
from grounding_jax.data.scenes.expressions import Expression
from grounding_jax.data.scenes.narratives import Narrative, narrate
from grounding_jax.data.sources.panoptic_classes import Category

MIN_STUFF_AREA = 0.01  # visible part of the picture
_STREAM = 1  # of random numbers: those of scenes without narratives are another one

CATEGORIES = tuple(
    Category(number, name, number <= len(KINDS))
    for number, name in enumerate((*(kind.noun for kind in KINDS), *BACKDROPS), 1)
)
_CATEGORY_IDS = {category.name: category.id for category in CATEGORIES}


@dataclasses.dataclass(frozen=True)
class NarratedScene:
    """A picture that is cut into entities, and what is said about it.

    Attributes:
      image: uint8 [S, S, 3] RGB.
      entities: things from back to front, then stuff; their masks are disjoint and cover all of the picture.
      narrative: a caption; `narrate(rng, entities, size)` draws others.
      expressions: as of `compose.Scene`; they mean things only.
    """

    image: np.ndarray
    entities: tuple[SceneObject, ...]
    narrative: Narrative
    expressions: tuple[Expression, ...]

    @property
    def things(self) -> tuple[SceneObject, ...]:
        """The entities that are no stuff; indices are the same."""
        return tuple(entity for entity in self.entities if entity.kind not in BACKDROPS)

    @property
    def category_ids(self) -> tuple[int, ...]:
        """For each entity, the number of its category in `CATEGORIES`."""
        return tuple(_CATEGORY_IDS[entity.kind] for entity in self.entities)


@dataclasses.dataclass(frozen=True)
class NarratedSceneSource(SceneSource):
    """Random access to the narrated scenes (seed, split, 0..num-1)."""

    def compose(self, index: int) -> NarratedScene:
        """Scene `index`, see `narrated_scene`."""
        return narrated_scene(self.seed, self.split, index, self.size)


def narrated_scene(seed: int, split: str, index: int, size: int) -> NarratedScene:
    """Composes narrated scene `index` of a split: always the same one for the same arguments.

    Arguments and errors are those of `compose.scene`, which makes other pictures of them.
    """
    check_split(split)
    rng = np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split), index, _STREAM]))
    while True:
        picture, regions = draw_backdrop(rng, split, size)
        composed = compose(rng, picture)
        free = ~np.any([thing.mask for thing in composed.objects], 0)
        visible = {kind: region & free for kind, region in regions.items()}
        if all(np.count_nonzero(mask) >= MIN_STUFF_AREA * size**2 for mask in visible.values()):
            break
    stuff = tuple(visible_object(kind, mask, np.count_nonzero(regions[kind])) for kind, mask in visible.items())
    entities = composed.objects + stuff
    narrative = narrate(rng, entities, picture.size)
    return NarratedScene(composed.image, entities, narrative, composed.expressions)
