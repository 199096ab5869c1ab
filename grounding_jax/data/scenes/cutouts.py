"""Cut-outs of everyday things, which scenes are composed of: fetched once with npm, drawn at any size."""

import dataclasses
import functools
import os
import subprocess
import tarfile
import tempfile

import numpy as np
from etils import epath
from PIL import Image

from grounding_jax.files.pictures import opened
from grounding_jax.files.writing import write_bytes

PACKAGE = "@lobehub/fluent-emoji-3d"
VERSION = "1.1.0"
CACHE_VARIABLE = "GROUNDING_JAX_CACHE"


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of thing: its noun, the plural, and the code point that names its picture."""

    noun: str
    plural: str
    code_point: str


def _kinds(table: str) -> tuple[Kind, ...]:
    return tuple(Kind(*line.split()) for line in table.strip().splitlines())


# Chosen by eye on a contact sheet at 12 pixels: every colour and outline is told from the others there.
KINDS = _kinds("""
    apple       apples       1f34e
    banana      bananas      1f34c
    watermelon  watermelons  1f349
    carrot      carrots      1f955
    eggplant    eggplants    1f346
    avocado     avocados     1f951
    mushroom    mushrooms    1f344
    burger      burgers      1f354
    donut       donuts       1f369
    cheese      cheeses      1f9c0
    dog         dogs         1f436
    pig         pigs         1f437
    frog        frogs        1f438
    lion        lions        1f981
    fox         foxes        1f98a
    panda       pandas       1f43c
    penguin     penguins     1f427
    elephant    elephants    1f418
    giraffe     giraffes     1f992
    flamingo    flamingos    1f9a9
    turtle      turtles      1f422
    whale       whales       1f433
    crab        crabs        1f980
    butterfly   butterflies  1f98b
    bee         bees         1f41d
    spider      spiders      1f577-fe0f
    car         cars         1f697
    bus         buses        1f68c
    tractor     tractors     1f69c
    train       trains       1f682
    boat        boats        26f5
    airplane    airplanes    2708-fe0f
    umbrella    umbrellas    2602-fe0f
    cactus      cacti        1f335
    tree        trees        1f333
    sunflower   sunflowers   1f33b
    key         keys         1f511
    guitar      guitars      1f3b8
    hat         hats         1f3a9
    diamond     diamonds     1f48e
    star        stars        2b50
    snowman     snowmen      26c4
    piano       pianos       1f3b9
    globe       globes       1f30d
    anchor      anchors      2693
    shirt       shirts       1f455
    basketball  basketballs  1f3c0
    crown       crowns       1f451
""")
KIND_IDS = {kind.noun: i for i, kind in enumerate(KINDS)}

_LARGEST_SIDE = 256
_LADDER_STEP = 1.25  # a bilinear draw from the next larger rung never skips pixels
_LADDER = tuple(round(_LARGEST_SIDE / _LADDER_STEP**rung) for rung in range(13))
_BORDER = 2  # transparent pixels around every rung, so that edges fade out instead of being cut


class MissingCutouts(FileNotFoundError):
    """The cut-outs are not in the cache folder and could not be fetched."""


def cache_folder() -> epath.Path:
    """Folder that downloads are kept in: $GROUNDING_JAX_CACHE, or ~/.cache/grounding_jax."""
    return epath.Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/grounding_jax").expanduser()


def fetch_cutouts(folder: str | os.PathLike | None = None) -> epath.Path:
    """Returns the folder of the cut-outs, one WebP file per kind; fetches what is not there yet.

    Args:
      folder: cache folder; default `cache_folder()`.

    Raises:
      MissingCutouts: npm is not installed or cannot reach its registry, and the cache folder has no cut-outs.
    """
    cache = epath.Path(folder) if folder is not None else cache_folder()
    target = cache / f"fluent-emoji-3d-{VERSION}"
    if all((target / f"{kind.code_point}.webp").exists() for kind in KINDS):
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch, tarfile.open(_npm_pack(scratch)) as package:
        target.mkdir(exist_ok=True)
        for kind in KINDS:
            name = f"{kind.code_point}.webp"
            # Whole or not at all: other workers may be fetching or reading, too.
            write_bytes(target / name, package.extractfile(f"package/assets/{name}").read())
    return target


def _npm_pack(scratch: str) -> epath.Path:
    """Fetches the package into a folder and returns its archive."""
    command = ["npm", "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", scratch]
    advice = f"install npm and check the network, or set {CACHE_VARIABLE} to a folder that was filled before"
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise MissingCutouts(f"scenes need the cut-outs of {PACKAGE}, but npm is not installed: {advice}") from None
    archives = list(epath.Path(scratch).glob("*.tgz"))
    if done.returncode != 0 or not archives:
        reason = next((line for line in done.stderr.splitlines() if "ERR" in line or "error" in line), "no reason")
        raise MissingCutouts(f"`{' '.join(command[:3])}` failed ({reason.strip()}): {advice}")
    return archives[0]


@functools.cache
def _rungs(kind: int) -> tuple[Image.Image, ...]:
    """One kind at every side of `_LADDER`, premultiplied by its alpha, each with a transparent border."""
    with opened(fetch_cutouts() / f"{KINDS[kind].code_point}.webp", "cut-out") as file:
        picture = file.convert("RGBA")
    picture = picture.crop(picture.getchannel("A").getbbox()).convert("RGBa")
    rungs = []
    for side in _LADDER:
        scale = side / max(picture.size)
        size = tuple(max(1, round(length * scale)) for length in picture.size)
        rung = Image.new("RGBa", (size[0] + 2 * _BORDER, size[1] + 2 * _BORDER))
        rung.paste(picture.resize(size, Image.Resampling.HAMMING), (_BORDER, _BORDER))
        rungs.append(rung)
    return tuple(rungs)


@functools.cache
def cutout_fill(kind: int) -> float:
    """Share of a square that a cut-out covers whose longer side is the square's side."""
    side = 64
    return float(cutout_mask(draw_cutout(kind, side)).sum()) / side**2


def draw_cutout(kind: int, side: float, angle: float = 0.0, flip: bool = False) -> Image.Image:
    """Draws one kind.

    Args:
      kind: index into `KINDS`.
      side: longer side of the upright cut-out in pixels.
      angle: rotation in degrees, counter-clockwise.
      flip: mirrored left to right before rotating.

    Returns:
      RGBA picture, the smallest that holds it.
    """
    level = max((k for k, length in enumerate(_LADDER) if length >= side), default=0)
    rung = _rungs(kind)[level]
    scale = _LADDER[level] / side
    cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    inner_width, inner_height = (rung.width - 2 * _BORDER) / scale, (rung.height - 2 * _BORDER) / scale
    width = int(np.ceil(inner_width * abs(cosine) + inner_height * abs(sine))) + 2
    height = int(np.ceil(inner_width * abs(sine) + inner_height * abs(cosine))) + 2
    mirror = -1.0 if flip else 1.0
    a, b = mirror * scale * cosine, -mirror * scale * sine
    d, e = scale * sine, scale * cosine
    c = rung.width / 2 - a * width / 2 - b * height / 2
    f = rung.height / 2 - d * width / 2 - e * height / 2
    matrix = (a, b, c, d, e, f)
    drawn = rung.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return drawn.convert("RGBA")


def cutout_mask(drawn: Image.Image) -> np.ndarray:
    """Pixels of a drawn cut-out that belong to it: bool [h, w], alpha above one half."""
    return np.asarray(drawn.getchannel("A")) > 127
