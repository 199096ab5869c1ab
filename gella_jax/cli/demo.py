"""`make demo`, GELLA's part: what the nouns of a caption mean, with given masks and with those the tiny GELLA finds."""

from __future__ import annotations

import time

import tyro
from etils import epath

from gella_jax.cli.loading import load_model
from gella_jax.config import ASSETS
from grounding_jax.terminal import prepare_folder, say, working

COCO = ASSETS / "scenes" / "coco"
NAME = "000050000012"
PICTURE = COCO / "val2017" / f"{NAME}.jpg"
MASKS = COCO / "annotations" / "panoptic_val2017" / f"{NAME}.png"
CAPTION = "Two globes stand next to a crab. We also see a panda. The weather is pleasant."


def demo(out: str = "out/demo/gella", checkpoint: str = "tiny") -> None:
    """Grounds a caption twice and says what came of it.

    Args:
        out: folder for the pictures and pages.
        checkpoint: a model folder, or the name of a shipped model.
    """
    from gella_jax.results import GROUNDING_FILES, describe_grounding, save_grounding
    from grounding_jax.data.entity_masks import read_masks
    from grounding_jax.files.pictures import open_picture

    image = open_picture(PICTURE)
    sources = {"given": ("the masks of the scene", read_masks(MASKS, image.shape[:2]))}
    gella = load_model(checkpoint)
    if gella.segmenter is not None:
        sources["own"] = ("masks that it finds itself", None)
    for name, (whose, entities) in sources.items():
        folder = prepare_folder(epath.Path(out) / name)
        begin = time.perf_counter()
        with working("grounding (the first time, programs are compiled)"):
            grounding = gella.ground(image, CAPTION, entities, absent=True)
        save_grounding(folder, str(PICTURE), image, grounding)
        say(f"\n{PICTURE.name} with {whose}: {CAPTION}\n{grounding.text}")
        for line in describe_grounding(grounding):
            say(line)
        say(f"in {time.perf_counter() - begin:.1f} s, look at {folder / GROUNDING_FILES[0]}")
    say('\nNow yours: gella ground PICTURE "A caption about it." --masks MASKS --out results')


if __name__ == "__main__":
    tyro.cli(demo, prog="python -m gella_jax.cli.demo")
