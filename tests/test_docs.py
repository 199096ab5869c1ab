"""The Python code of the documentation runs, on small files in place of the published ones."""

import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
PLACES = {
    "sam_vit_b_01ec64.pth": ROOT / "tests/golden/gsva/tiny_sam_vit_b.pth",
    "clip-vit-large-patch14": ROOT / "tests/golden/gsva/tiny-clip",
    "gsva_jax/assets/photo_scene.jpg": ROOT / "gsva_jax/assets/photo_scene.jpg",
}


def run(page: str) -> dict:
    """Runs all Python blocks of a page, one after the other, in one namespace."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL))
    for name, place in PLACES.items():
        code = code.replace(f'"{name}"', f'"{place}"')
    names = {}
    exec(compile(code, page, "exec"), names)
    return names


def test_sam_and_clip_by_themselves():
    names = run("docs/parts.md")
    assert names["masks"].shape == (2, *names["picture"].shape[:2]) and names["masks"].dtype == bool
    assert np.isfinite(names["iou"]).all() and np.ptp(names["low"]) > 0
    config = names["config"]
    assert names["patches"].shape == (1, config.num_patches, config.width)
    np.testing.assert_allclose(names["patches"], names["hidden_states"][-2][:, 1:], atol=1e-5)  # one is not jitted


def test_the_first_lines_of_the_readme(capsys):
    names = run("README.md")
    answer = names["answer"]
    decisions = [(target.expression, target.rejected) for target in answer.targets]
    assert decisions == [("the turtle", False), ("the top penguin", False), ("the giraffe", True)]
    assert answer.text in capsys.readouterr().out
    lengths = names["lengths"]
    assert len(lengths) == 2 and all(one["size"] == [400, 600] and len(one["counts"]) > 5 for one in lengths)
