"""Scenes: pictures that we compose of cut-outs on photographs, with exact visible masks and expressions."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from grounding_jax.data.scenes.backgrounds import SPLITS, draw_background, load_photograph
from grounding_jax.data.scenes.cutouts import KIND_IDS, KINDS, cutout_fill, cutout_mask, draw_cutout
from grounding_jax.data.scenes.expressions import Expression, choose_expressions

MIN_AREA, MAX_AREA = 0.01, 0.20  # visible part of the picture
MIN_VISIBLE = 0.5  # visible part of an object
MIN_OBJECTS, MAX_OBJECTS = 3, 8
REPEATED_SHARE = 0.72  # of the scenes are planned with two or three of a kind

_MIN_SCALE, _MAX_SCALE = 0.11, 0.44  # square root of the planned area: 1.2 to 19% of the picture
_CONTRAST = 1.35  # least ratio of some neighbouring scales in the first repeated kind, where asked for
_MAX_LENGTH = 0.72  # of the picture's side, so that slender things stay inside
_MAX_TOTAL_AREA = 0.8  # of all objects as planned: more does not fit without hiding too much
_MAX_OUTSIDE = 0.12  # of an object's box that may leave the picture
_MAX_ANGLE = 15.0  # degrees
_TRIES = 10  # places, before an object is made smaller
_MAX_HIDDEN_BY_SAME = 0.15  # of an object, by another of its kind: their outlines would melt into one


@dataclasses.dataclass(frozen=True)
class SceneObject:
    """One thing in a scene.

    Attributes:
      kind: its noun.
      mask: bool [S, S], the visible pixels.
      box: left, top, right, bottom of the mask in pixels; right and bottom are exclusive.
      area: number of visible pixels.
      visible: share of its own pixels that are visible.
    """

    kind: str
    mask: np.ndarray
    box: tuple[int, int, int, int]
    area: int
    visible: float


@dataclasses.dataclass(frozen=True)
class Scene:
    """A picture, uint8 [S, S, 3] RGB, its objects from back to front, and what is said about it."""

    image: np.ndarray
    objects: tuple[SceneObject, ...]
    expressions: tuple[Expression, ...]


@dataclasses.dataclass(frozen=True)
class SceneSource:
    """Random access to the scenes (seed, split, 0..num-1); what Grain reads."""

    seed: int
    split: str
    num: int
    size: int

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self.num:
            raise IndexError(f"scene {index} of a source of {self.num}")
        return self.compose(index)

    def compose(self, index: int) -> Any:
        """Scene `index`, see `scene`."""
        return scene(self.seed, self.split, index, self.size)


def scene(seed: int, split: str, index: int, size: int) -> Scene:
    """Composes scene `index` of a split: always the same one for the same arguments (design: example i).

    Args:
      seed: at least 0; splits differ by their backgrounds and never share random numbers.
      split: "train", "val" or "test".
      index: at least 0.
      size: side of the picture in pixels.

    Raises:
      ValueError: unknown split.
      MissingCutouts, FileNotFoundError: cut-outs or photographs can't be had.
    """
    check_split(split)
    rng = np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split), index]))
    return compose(rng, draw_background(rng, split, size))


def check_split(split: str) -> None:
    """Raises ValueError if scenes have no split of this name."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: scenes have the splits {', '.join(SPLITS)}")


def photo_scene(seed: int, file: str, longest_side: int = 640) -> Scene:
    """Composes a scene on one whole photograph of scikit-image, such as "coffee.png"."""
    picture = load_photograph(file).convert("RGB")
    picture.thumbnail((longest_side, longest_side))
    return compose(np.random.default_rng(np.random.SeedSequence([seed, len(SPLITS)])), picture)


def compose(rng: np.random.Generator, picture: Image.Image) -> Scene:
    """Composes a scene on an RGB picture of any shape."""
    while True:
        canvas = _Canvas(picture)
        for kind, scale in _plan(rng):
            canvas.place(rng, kind, scale)
        if len(canvas.kinds) >= MIN_OBJECTS and len(set(canvas.kinds)) >= 2:
            break
    objects = canvas.objects()
    return Scene(np.array(canvas.picture), objects, express(rng, objects, picture.size))


def express(rng: np.random.Generator, objects: Sequence[SceneObject], size: tuple[int, int]) -> tuple[Expression, ...]:
    """Draws what is said about the objects of a picture of a width and height; see `choose_expressions`."""
    return choose_expressions(rng, *measure(objects), size)


def measure(objects: Sequence[SceneObject]) -> tuple[list[int], np.ndarray, np.ndarray]:
    """What tells objects apart in words: their kinds (indices into `KINDS`), boxes [M, 4] and visible pixels [M]."""
    boxes = np.array([thing.box for thing in objects], float)
    areas = np.array([thing.area for thing in objects])
    return [KIND_IDS[thing.kind] for thing in objects], boxes, areas


def visible_object(kind: str, mask: np.ndarray, full: int) -> SceneObject:
    """The object of which a bool [S, S] mask, not empty, is visible, and which has `full` pixels of its own."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    area = int(np.count_nonzero(mask))
    return SceneObject(kind, mask, box, area, area / full)


def _plan(rng: np.random.Generator) -> list[tuple[int, float]]:
    """Kinds and scales (square root of the area) of 3 to 8 objects, roughly from large to small."""
    num = int(rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1))
    repeats = []
    if rng.random() < REPEATED_SHARE:
        repeats.append(3 if num > 3 and rng.random() < 0.4 else 2)
        if num >= 5 and rng.random() < 0.4:
            repeats.append(2)
    counts = repeats + [1] * (num - sum(repeats))
    kinds = rng.choice(len(KINDS), len(counts), replace=False)
    contrast = bool(repeats) and rng.random() < 0.6
    while True:
        scales = rng.uniform(_MIN_SCALE, _MAX_SCALE, num)
        first = np.sort(scales[: counts[0]])
        if (scales**2).sum() <= _MAX_TOTAL_AREA and (not contrast or (first[1:] / first[:-1]).max() >= _CONTRAST):
            break
    planned = list(zip(np.repeat(kinds, counts).tolist(), scales.tolist(), strict=True))
    # The larger ones tend to be behind: otherwise they would hide the smaller ones and have to be moved.
    return [planned[k] for k in np.argsort(-scales * rng.uniform(0.6, 1.4, num))]


class _Canvas:
    """A scene in the making: the picture so far, and which object is on top at every pixel."""

    def __init__(self, picture: Image.Image):
        self.picture = picture.copy()
        self.owner = np.zeros((picture.height, picture.width), np.int8)  # 0: background, k: object k - 1
        self.kinds: list[int] = []
        self.full = np.zeros(1, int)  # pixels of each object before anything hides it; entry 0: background
        self.shown = np.zeros(1, int)  # pixels of each object that are visible

    def place(self, rng: np.random.Generator, kind: int, scale: float) -> None:
        """Puts one object on top at a random place where the rules hold; if none is, smaller or not."""
        angle, flip = rng.uniform(-_MAX_ANGLE, _MAX_ANGLE), bool(rng.random() < 0.5)
        gains = rng.uniform(0.85, 1.15) * rng.uniform(0.94, 1.06, 3)
        side = self.owner.size**0.5
        while True:
            length = min(scale / cutout_fill(kind) ** 0.5, _MAX_LENGTH) * side
            drawn = draw_cutout(kind, length, angle, flip)
            mask = cutout_mask(drawn)
            for _ in range(_TRIES):
                corner = self._corner(rng, mask)
                window, inside = self._window(mask, corner)
                if self._fits(window, inside, np.count_nonzero(mask), kind):
                    self.picture.paste(_jitter(drawn, gains), corner[::-1], drawn)
                    self._own(window, inside, np.count_nonzero(mask), kind)
                    return
            if scale == _MIN_SCALE:
                return
            scale = max(_MIN_SCALE, 0.8 * scale)

    def _corner(self, rng: np.random.Generator, mask: np.ndarray) -> tuple[int, int]:
        """Random top and left of a cut-out, which may leave the picture a little."""
        share = rng.random(2)
        return tuple(
            int(np.floor(part * (whole - (1 - 2 * _MAX_OUTSIDE) * own) - _MAX_OUTSIDE * own))
            for part, whole, own in zip(share.tolist(), self.owner.shape, mask.shape, strict=True)
        )

    def _window(self, mask: np.ndarray, corner: tuple[int, int]) -> tuple[tuple[slice, slice], np.ndarray]:
        """The part of the canvas that a cut-out at `corner` covers, and the part of its mask inside."""
        (top, left), (height, width) = corner, mask.shape
        bottom, right = min(top + height, self.owner.shape[0]), min(left + width, self.owner.shape[1])
        inside = mask[max(-top, 0) : bottom - top, max(-left, 0) : right - left]
        return (slice(max(top, 0), bottom), slice(max(left, 0), right)), inside

    def _fits(self, window: tuple[slice, slice], inside: np.ndarray, full: int, kind: int) -> bool:
        """True if the new object and all that it partly hides keep to the rules on area and visibility."""
        least, most = MIN_AREA * self.owner.size, MAX_AREA * self.owner.size
        if not max(least, MIN_VISIBLE * full) <= np.count_nonzero(inside) <= most:
            return False
        hidden = np.bincount(self.owner[window][inside], minlength=len(self.full))
        shown = self.shown - hidden
        for k, other in enumerate(self.kinds, 1):
            if shown[k] < max(least, MIN_VISIBLE * self.full[k]):
                return False
            if other == kind and hidden[k] > _MAX_HIDDEN_BY_SAME * self.full[k]:
                return False
        return True

    def _own(self, window: tuple[slice, slice], inside: np.ndarray, full: int, kind: int) -> None:
        """Notes a new object on top."""
        self.shown -= np.bincount(self.owner[window][inside], minlength=len(self.full))
        self.kinds.append(kind)
        self.owner[window][inside] = len(self.kinds)
        self.full = np.append(self.full, full)
        self.shown = np.append(self.shown, np.count_nonzero(inside))

    def objects(self) -> tuple[SceneObject, ...]:
        """What is visible of every object."""
        objects = []
        for k, kind in enumerate(self.kinds, 1):
            objects.append(visible_object(KINDS[kind].noun, self.owner == k, int(self.full[k])))
        return tuple(objects)


def _jitter(drawn: Image.Image, gains: np.ndarray) -> Image.Image:
    """Multiplies red, green and blue by one gain each; the result is RGB."""
    red, green, blue = gains.tolist()
    return drawn.convert("RGB").convert("RGB", (red, 0, 0, 0, 0, green, 0, 0, 0, 0, blue, 0))
