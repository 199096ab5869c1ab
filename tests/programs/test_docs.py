"""The Python code of the documentation runs, on small files in place of the published ones."""

import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent.parent
PLACES = {
    "sam_vit_b_01ec64.pth": ROOT / "tests/golden/gsva/tiny_sam_vit_b.pth",
    "clip-vit-large-patch14": ROOT / "tests/golden/gsva/tiny-clip",
    "gsva_jax/assets/photo_scene.jpg": ROOT / "gsva_jax/assets/photo_scene.jpg",
    "vicuna-7b-v1.5": ROOT / "tests/golden/gella/llama",
    "swin-tiny-patch4-window7-224": ROOT / "tests/golden/gella/swin_backbone",
    "mobilenet_v2_1.0_224": ROOT / "tests/golden/gella/mobilenet_v2",
    "mask2former-swin-tiny-coco-panoptic": ROOT / "tests/golden/gella/m2f_hf",
    "picture.jpg": ROOT / "gsva_jax/assets/photo_scene.jpg",
}


def run(page: str) -> dict:
    """Runs all Python blocks of a page, one after the other, in one namespace."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL))
    for name, place in PLACES.items():
        code = code.replace(f'"{name}"', f'"{place}"')
    names = {}
    exec(compile(code, page, "exec"), names)
    return names


def test_the_parts_by_themselves():
    names = run("docs/parts.md")
    assert names["masks"].shape == (2, *names["picture"].shape[:2]) and names["masks"].dtype == bool
    assert np.isfinite(names["iou"]).all() and np.ptp(names["low"]) > 0
    config = names["config"]
    assert names["patches"].shape == (1, config.num_patches, config.width)
    np.testing.assert_allclose(names["patches"], names["hidden_states"][-2][:, 1:], atol=1e-5)  # one is not jitted
    assert names["logits"].shape == (1, 4, names["llama_config"].vocab_size) and np.ptp(names["logits"]) > 0
    assert [x.shape[1:3] for x in names["maps"]] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert names["mean"].shape == (1, names["mobilenet_config"].head) and np.ptp(names["mean"]) > 0
    prediction, sizes = names["prediction"], names["mask2former_config"]
    assert prediction.class_logits.shape == (1, sizes.queries, sizes.classes + 1)
    assert prediction.mask_logits.shape == (1, sizes.queries, 16, 24) and np.ptp(prediction.mask_logits) > 0


def test_the_first_lines_of_the_readme(capsys):
    names = run("README.md")
    answer = names["answer"]
    decisions = [(target.expression, target.rejected) for target in answer.targets]
    assert decisions == [("the watermelon", False), ("the left tractor", False), ("the giraffe", True)]
    assert answer.text in capsys.readouterr().out
    lengths = names["lengths"]
    assert len(lengths) == 2 and all(one["size"] == [400, 600] and len(one["counts"]) > 5 for one in lengths)
