"""What `gsva data check` says about whole, missing and damaged datasets, and about the configs that need them."""

import dataclasses
import json

import pytest
from etils import epath
from PIL import Image

from grounding_jax.cli.datasets import show_datasets
from grounding_jax.data.check import Checked, check_dataset
from grounding_jax.data.sources.registry import KNOWN_DATASETS, PUBLISHED_PICTURES
from gsva_jax.cli import main
from gsva_jax.training import experiment
from tests.small_datasets import Truth, write_all

pytestmark = pytest.mark.quick

COCO = "refcoco|unc|train"


@pytest.fixture
def tree(tmp_path) -> tuple:
    """A tree of all datasets, and its truth."""
    return tmp_path / "root", write_all(tmp_path / "root", seed=0)


def check(root, name: str) -> Checked:
    return check_dataset(root, name, lambda *_: None)


def counted(truth: list[Truth]) -> tuple[int, int]:
    return len({true.image for true in truth}), sum(len(true.texts) for true in truth)


def test_counts(tree):
    root, truth = tree
    for name, images in truth.items():
        checked = check(root, name)
        assert checked.problem is None, name
        if name == "llava_instruct_150k":
            assert (checked.pictures, checked.expressions) == (2, 3), "three conversations about two pictures"
        elif name.partition("|")[0] in ("ade20k", "cocostuff", "mapillary"):
            assert (checked.pictures, checked.expressions) == (3, None)
        else:
            assert (checked.pictures, checked.expressions) == counted(images)


def test_masks_that_draw_nothing_are_counted(tree, capsys):
    root, _ = tree
    file = root / "refer_seg" / "refcoco" / "instances.json"
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        annotation["segmentation"] = [[1, 2, 3, 4]]
    file.write_text(json.dumps(content))
    checked = check(root, COCO)
    assert checked.problem is None and checked.drawn_nothing == checked.expressions > 0
    show_datasets(root, [COCO])
    line = f"{COCO}: {checked.expressions} expressions have masks without a pixel: they count as absent"
    assert line in capsys.readouterr().out


def test_published_numbers_are_of_known_datasets():
    assert set(PUBLISHED_PICTURES) < set(KNOWN_DATASETS)
    assert sum(PUBLISHED_PICTURES[f"grefcoco|unc|{split}"] for split in ("val", "testA", "testB")) == 3000


def test_progress_is_told_to_the_end(tree):
    told = []
    check_dataset(tree[0], COCO, lambda *state: told.append(state))
    assert told == [(COCO, 1, 3), (COCO, 2, 3), (COCO, 3, 3)]


def test_missing_and_damaged_files_are_named(tree):
    root, truth = tree
    (root / "refer_seg" / "refcoco" / "instances.json").unlink()
    assert check(root, COCO).problem == f"a file is missing: {root}/refer_seg/refcoco/instances.json"
    picture = root / truth["refcocog|umd|train"][0].image
    picture.unlink()
    assert check(root, "refcocog|umd|train").problem == f"there is no picture '{picture}'"
    Image.new("RGB", (30, 20)).save(picture)
    assert check(root, "refcocog|umd|train").problem == (
        f"{picture} has 20 x 30 pixels, but its annotation is for 40 x 56"
    )
    label_map = next((root / "cocostuff" / "train2017").glob("*0.png"))
    label_map.write_bytes(label_map.read_bytes()[:60])
    assert f"cannot read the label map '{label_map}'" in check(root, "cocostuff|train2017").problem
    (root / "vlpart" / "pascal_part" / "train.json").write_text('{"images": [], "annotations": [], "categories": []}')
    assert check(root, "pascal_part|train").problem == "the dataset 'pascal_part|train' has no records"
    assert "no expressions of the split 'testB'" in check(root, "refcoco+|unc|testB").problem
    annotation = root / "reason_seg" / "ReasonSeg" / "val" / "c.json"
    annotation.write_text(json.dumps({**json.loads(annotation.read_text()), "shapes": [{"label": "target"}]}))
    assert (
        f"{annotation} at $.shapes[0]: object missing required field `points`" in check(root, "ReasonSeg|val").problem
    )


CONFIG = """
from grounding_jax.training.experiment import Experiment
from grounding_jax.training.task import Recipe
from gsva_jax.data.mixture import Family as F
from gsva_jax.training.recipe import GsvaRecipe

def get_config():
    return Experiment("name", {recipe}, None)
"""
RECIPES = {
    "a_mixture": "GsvaRecipe(families=(F(1, ('ade20k|training', 'ReasonSeg|train_val')),), validation='')",
    "b_recipe": 'GsvaRecipe(families=(F(1, ("refcoco|unc|train",)), F(2, ("refcocog|umd|test", "jsonl|x"))))',
    "c_scenes": "Recipe()",
    "d_broken": "open('nowhere')",
}


@pytest.fixture
def configs(monkeypatch, tmp_path):
    system = dataclasses.replace(experiment.GSVA, shipped=epath.Path(tmp_path / "package" / "assets"))
    place = tmp_path / "package" / "configs"
    place.mkdir(parents=True)
    for name, recipe in RECIPES.items():
        (place / f"{name}.py").write_text(CONFIG.format(recipe=recipe))
    monkeypatch.setattr(experiment, "GSVA", system)


def test_the_command(tree, configs, capsys):
    root = tree[0]
    assert main(["data", "check", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {cells[0]: cells[1:] for line in lines if (cells := line.strip("│").replace(" ", "").split("│"))[1:]}
    assert rows["ReasonSeg|test"] == ["1", "779", "2"] and rows["ade20k|training"] == ["3", "", ""]
    assert "refcocog|umd|test" not in rows
    assert any(line.startswith("refcocog|umd test: ") and "no expressions of the split" in line for line in lines)
    assert lines[-4:] == [
        "gsva train a_mixture: can run",
        "gsva train b_recipe: can't run: it needs refcocog|umd|test, jsonl|x, grefcoco|unc|val",
        "gsva train c_scenes: can run: it needs no data",
        "gsva train d_broken: can't run: nowhere: No such file or directory",
    ]


def test_an_empty_folder(tmp_path, configs, capsys):
    assert main(["data", "check", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    place = tmp_path / "refer_seg"
    missing = f"a file is missing: {place}"
    assert (
        lines[0]
        == f"grefcoco|unc train, val, testA, testB: {missing}/grefcoco/grefs(unc).p or {place}/grefcoco/grefs(unc).json"
    )
    assert f"llava_instruct_150k: a file is missing: {tmp_path}/llava_dataset/llava_instruct_150k.json" in lines
    assert lines[-4].startswith("gsva train a_mixture: can't run: it needs ade20k|training, ReasonSeg|train_val")


def test_the_shipped_tiny_configs_need_no_data(tmp_path, capsys):
    main(["data", "check", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    for name in ("gsva_tiny", "gsva_tiny_eyes", "gsva_tiny_masks", "gsva_tiny_words"):
        assert f"gsva train {name}: can run: it needs no data" in lines
