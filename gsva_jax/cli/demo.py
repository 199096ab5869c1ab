"""`make demo`: the tiny GSVA on a scene and on a photograph, each with targets that are there and one that is not."""

from __future__ import annotations

import time

import tyro
from etils import epath

from grounding_jax.terminal import prepare_folder, say, working
from gsva_jax.cli.loading import load_model

ASSETS = epath.Path(__file__).parent.parent / "assets"
SCENE = ASSETS / "scenes/refer_seg/images/mscoco/images/train2014/COCO_train2014_000020000006.jpg"
PICTURES = {
    "scene": (SCENE, ("the giraffe", "the top elephant", "the bottom elephant", "the penguin")),
    "photo": (ASSETS / "photo_scene.jpg", ("the watermelon", "the left tractor", "the right tractor", "the giraffe")),
}


def demo(out: str = "out/demo", checkpoint: str = "tiny") -> None:
    """Segments both pictures and says what came of it.

    Args:
        out: folder for the overlays and masks.
        checkpoint: a model folder, or the name of a shipped model.
    """
    from grounding_jax.files.pictures import open_picture
    from gsva_jax.results import OVERLAY_FILE, describe, save_results

    folders = {name: prepare_folder(epath.Path(out) / name) for name in PICTURES}
    gsva = load_model(checkpoint)
    for name, (picture, expressions) in PICTURES.items():
        image = open_picture(picture)
        begin = time.perf_counter()
        with working(f"segmenting the {name} (the first time, programs are compiled)"):
            answer = gsva.segment(image, expressions)
        seconds = time.perf_counter() - begin
        save_results(folders[name], image, answer.targets)
        say(f"\n{picture.name}: {', '.join(expressions)}?\n{answer.text}")
        for line in describe(answer.targets):
            say(line)
        say(f"in {seconds:.1f} s, look at {folders[name] / OVERLAY_FILE}")
    say('\nNow yours: gsva segment PICTURE "what to look for" "and what else" --out results')


if __name__ == "__main__":
    tyro.cli(demo, prog="python -m gsva_jax.cli.demo")
