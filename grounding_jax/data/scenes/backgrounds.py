"""Backgrounds of scenes: crops of the public-domain photographs and textures that scikit-image installs."""

import dataclasses
import functools
import importlib.util

import numpy as np
from etils import epath
from PIL import Image

from grounding_jax.data.scenes import cutouts
from grounding_jax.files.pictures import opened
from grounding_jax.files.writing import replaced

SPLITS = ("train", "val", "test")
BACKGROUND, WALL, FLOOR = BACKDROPS = ("background", "wall", "floor")
_DIVIDED_SHARE = 0.5  # of the backdrops are a wall above a floor, the others one background
_LOW, _HIGH = 0.35, 0.65  # of the height: where the line between them crosses the middle of the picture
_TILT, _BEND = 0.07, 0.04  # of the height: how far that line may leave the horizontal, and its chord


@dataclasses.dataclass(frozen=True)
class Photograph:
    """One file of scikit-image's data folder, the region of it that may be shown, and its terms of use."""

    file: str
    region: tuple[int, int, int, int] | None  # left, top, right, bottom in pixels; None: all of it
    terms: str


# No picture is in two splits, and none shows a kind of the vocabulary.
PHOTOGRAPHS = {
    "train": (
        Photograph("astronaut.png", None, "NASA, public domain"),
        Photograph("brick.png", None, "CC0 (CC0Textures, Bricks25)"),
        Photograph("camera.png", (0, 230, 512, 512), "CC0 (Lav Varshney)"),  # without the trees at the horizon
        Photograph("chelsea.png", None, "CC0 (Stefan van der Walt)"),
        Photograph("horse.png", None, "CC0 (Andreas Preuss)"),
        Photograph("retina.jpg", (300, 300, 1110, 1110), "CC0 (Mikael Häggström)"),  # inside the black frame
        Photograph("text.png", None, "public domain"),
    ),
    "val": (
        Photograph("cell.png", None, "CC0"),
        Photograph("grass.png", None, "CC0 (linolafett, DeviantArt)"),
        Photograph("rocket.jpg", (0, 0, 640, 345), "SpaceX, public domain"),  # without star-shaped lights
    ),
    "test": (
        Photograph("clock_motion.png", None, "public domain (Stefan van der Walt)"),
        Photograph("coffee.png", None, "CC0 (Rachel Michetti)"),
        Photograph("gravel.png", None, "CC0 (CC0Textures, Gravel04)"),
    ),
}
_LONGEST_SIDE = 640


def load_photograph(file: str) -> Image.Image:
    """Opens one picture of scikit-image's data folder, as mode L or RGB.

    A copy is kept in `cutouts.cache_folder()`, so that a machine with a filled cache needs no scikit-image.

    Raises:
      FileNotFoundError: neither the cache folder nor an installed scikit-image has the file.
    """
    kept = cutouts.cache_folder() / "photographs" / file
    if not kept.exists():
        package = importlib.util.find_spec("skimage")
        installed = epath.Path(package.submodule_search_locations[0]) / "data" / file if package else None
        if installed is None or not installed.exists():
            raise FileNotFoundError(f"scenes need {file} of scikit-image's data: `pip install scikit-image`")
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replaced(kept) as scratch:  # other workers may be reading
            installed.copy(scratch)
    with opened(kept, "photograph") as picture:
        return picture.convert("L" if picture.mode == "L" else "RGB")


@functools.cache
def _photograph(photograph: Photograph) -> Image.Image:
    picture = load_photograph(photograph.file)
    if photograph.region is not None:
        picture = picture.crop(photograph.region)
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    return picture


def draw_background(rng: np.random.Generator, split: str, size: int) -> Image.Image:
    """Draws a random square crop of a random photograph of the split: RGB, `size` pixels a side.

    Crops are mirrored and vary in brightness and colour. Grey pictures, and a fifth of the others, are tinted
    between two random colours.
    """
    choices = PHOTOGRAPHS[split]
    return draw_crop(rng, choices[rng.integers(len(choices))], size)


def draw_crop(rng: np.random.Generator, photograph: Photograph, size: int) -> Image.Image:
    """Draws a crop of one photograph, as `draw_background` does."""
    picture = _photograph(photograph)
    side = rng.uniform(0.35, 1.0) * min(picture.size)
    left, top = rng.uniform(0, picture.width - side), rng.uniform(0, picture.height - side)
    box = (left, top, left + side, top + side)
    crop = picture.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=1.5)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if crop.mode == "RGB" and rng.random() < 0.2:
        crop = crop.convert("L")
    if crop.mode == "RGB":
        gain, dark = rng.uniform(0.75, 1.2) * rng.uniform(0.85, 1.15, 3), np.zeros(3)
    else:
        dark, light = rng.uniform(0, 110, 3), rng.uniform(130, 255, 3)
        gain = (light - dark) / 255
    (r, g, b), (x, y, z) = gain.tolist(), dark.tolist()
    return crop.convert("RGB").convert("RGB", (r, 0, 0, x, 0, g, 0, y, 0, 0, b, z))


def draw_backdrop(rng: np.random.Generator, split: str, size: int) -> tuple[Image.Image, dict[str, np.ndarray]]:
    """Draws a backdrop of one photograph, the background, or of two: a wall that meets a floor at a line.

    Returns:
      The picture, RGB, `size` pixels a side, and the pixels of each kind of `BACKDROPS` in it: bool [size, size],
      disjoint, together all.
    """
    if rng.random() >= _DIVIDED_SHARE:
        return draw_background(rng, split, size), {BACKGROUND: np.ones((size, size), bool)}
    choices = PHOTOGRAPHS[split]
    wall, floor = (draw_crop(rng, choices[k], size) for k in rng.choice(len(choices), 2, replace=False))
    across, down = np.linspace(-1, 1, size), np.linspace(0, 1, size)
    line = rng.uniform(_LOW, _HIGH) + rng.uniform(-_TILT, _TILT) * across + rng.uniform(-_BEND, _BEND) * across**2
    above = down[:, None] < line
    floor.paste(wall, mask=Image.fromarray(above))
    return floor, {WALL: above, FLOOR: ~above}
