"""GELLA's recipes: the paper's numbers, what each row of its tables trains, and that a start has to fit."""

import ast
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gella_jax import model
from gella_jax.config import ASSETS, BACKBONES, GellaConfig
from gella_jax.data.mixture import Family
from gella_jax.evaluation.published import ABLATIONS, SYSTEMS
from gella_jax.resoblend import ResoBlendConfig
from gella_jax.tiny.vocabulary import tiny_config, tiny_tokenizer
from gella_jax.training.experiment import GELLA, load_config
from gella_jax.training.recipe import GellaRecipe
from grounding_jax.training.experiment import changed, counted, debugged, find_config
from grounding_jax.training.optimizer import make_optimizer, make_schedule
from grounding_jax.training.state import partition, path_matcher


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def with_lora() -> GellaConfig:
    """The tiny model with low-rank updates, as every imported GELLA has them."""
    config = tiny_config()
    return dataclasses.replace(config, llama=dataclasses.replace(config.llama, lora_rank=2))


@pytest.fixture(scope="module")
def shapes():
    return jax.eval_shape(lambda key: model.init(with_lora(), key), jax.random.key(0))


def paths(tree) -> list[str]:
    return ["/".join(key.key for key in path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def task_of(name, tokenizer, start=None, **changes):
    recipe = dataclasses.replace(load_config(name).recipe, data=str(ASSETS / "scenes"), backbone="", clip_size=0)
    return dataclasses.replace(recipe, masks="truth", **changes).task_for(start or with_lora(), tokenizer)


def test_the_papers_recipe():
    """Spec gella c: 50 epochs in batches of 16, a rate of 1e-5 that falls after 46 and 48, tasks .2 : .2 : .6."""
    experiment = load_config("gella_7b")
    recipe, options = experiment.recipe, experiment.options
    assert (recipe.epochs, options.batch_size, options.accumulate, options.clip_norm) == (50, 16, 1, 0.01)
    assert (options.learning_rate, options.b1, options.b2, options.weight_decay) == (1e-5, 0.9, 0.999, 0.05)
    assert (recipe.llm, recipe.masks, recipe.ungrounded, recipe.weights.terms.points) == (
        "lora",
        "truth",
        "ignore",
        12544,
    )
    assert [(family.task, family.rate) for family in recipe.families] == [
        ("describe", 0.2),
        ("nouns", 0.2),
        ("ground", 0.6),
    ]
    for name, epochs in (("gella_7b", (46, 48, 50)), ("gella_13b_12_epochs", (11, 11.5, 12))):
        first, second, last = (round(100 * epoch) for epoch in epochs)
        rate = make_schedule(dataclasses.replace(load_config(name).options, steps=last))
        given = [float(rate(step)) for step in (0, 5, 10, first - 1, first, second - 1, second, last - 1)]
        assert given == pytest.approx([0, 5e-6, 1e-5, 1e-5, 1e-6, 1e-6, 1e-7, 1e-7])


def test_epochs_are_of_narratives():
    """12 of them at .6 in batches of 16: an epoch is 20 examples."""
    options = ["--data", str(ASSETS / "scenes")]
    experiment = load_config("gella_7b")
    families = tuple(dataclasses.replace(family, datasets=("png|val2017",)) for family in experiment.recipe.families)
    recipe = dataclasses.replace(experiment.recipe, families=families)
    experiment = changed(dataclasses.replace(experiment, recipe=recipe), options)
    assert counted(experiment).options.steps == -(-50 * 20 // 16)
    assert counted(changed(experiment, ["--epochs", "0", "--steps", "7"])).options.steps == 7


def test_what_does_not_decay(shapes):
    """Kernels do; norms, biases and embeddings don't, nor does the vocabulary, of which old rows must not move."""
    options = load_config("gella_7b").options
    _, decaying = partition(shapes, path_matcher(options.no_decay))
    assert {path.rpartition("/")[2] for path in paths(decaying)} == {"kernel", "lora_a", "lora_b"}
    params = {"llama": {"embed": {"embedding": jnp.ones((4, 2))}, "head": {"kernel": jnp.ones((2, 4))}}}
    optimizer = make_optimizer(options)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    assert not any(update.any() for update in jax.tree.leaves(updates))


BLENDS = {
    "gella_7b_paper": dict(),
    "gella_7b_mask_query": dict(query="mask", mask_skip=True),
    "gella_7b_literal": dict(width=1024, hidden=4096, project=False),
    **{f"gella_7b_without_{part}": {"mask_skip": True, part: False} for part in ("sa", "ca", "ff", "res", "conv")},
}


@pytest.mark.parametrize("name", BLENDS)
def test_how_the_picture_is_blended(name, tokenizer):
    """At the sizes of the 7B; a blend of another kind than that of the start is drawn anew."""
    start = GellaConfig.gella_7b()
    start = dataclasses.replace(start, llama=dataclasses.replace(start.llama, lora_rank=8))
    task = task_of(name, tokenizer, start)
    assert task.model.blend == ResoBlendConfig(channels=(96, 192, 384, 768), **BLENDS[name]) and task.fresh == (
        "blend",
    )
    assert task_of("gella_7b", tokenizer, start).fresh == ()
    params = {"blend": {"old": np.ones(2)}, "association": {"kept": np.ones(3)}}
    assert set(task.import_params(params)) == {"association"}


def test_other_rows(tokenizer):
    assert task_of("gella_7b_location_colours", tokenizer).model.colours == "location"
    task = task_of("gella_7b_fc_relu_fc", tokenizer)
    assert task.model.association.kind == "fc_relu_fc" and task.fresh == ("association",)
    rates = {
        name: [(f.task, f.rate) for f in load_config(name).recipe.families]
        for name in ("gella_7b_ground", "gella_7b_nouns_ground")
    }
    assert rates == {"gella_7b_ground": [("ground", 0.6)], "gella_7b_nouns_ground": [("nouns", 0.2), ("ground", 0.8)]}


def test_what_is_trained(tokenizer, shapes):
    """CLIP never; of the language model nothing, its low-rank updates or all; of the vocabulary [SEG] or all."""

    def trained(task) -> set[str]:
        chosen, _ = partition(shapes, path_matcher(task.trainable))
        return {path if path.startswith("llama/") else path.partition("/")[0] for path in paths(chosen)}

    parts = {"projector", "backbone", "blend", "mask2former", "association"}
    vocabulary = {"llama/embed/embedding", "llama/head/kernel"}
    lora = {f"llama/layers/attn/{name}/lora_{side}" for name in "qv" for side in "ab"}
    frozen, full = task_of("gella_7b_frozen", tokenizer), task_of("gella_7b_full", tokenizer)
    assert trained(frozen) == parts | vocabulary and frozen.new_rows_only
    assert trained(task_of("gella_7b", tokenizer)) == parts | vocabulary | lora
    llama = {path for path in paths(shapes) if path.startswith("llama/")}
    assert trained(full) == parts | llama - lora and not full.new_rows_only
    alone = task_of("gella_masks_swin_t", tokenizer, tiny_config())  # needs no low-rank updates
    assert trained(alone) == {"backbone", "mask2former"} == set(alone.export_keys)
    assert alone.best_metric == "mask_IoU" and alone.validation is not None


def test_statistics_of_a_mobilenet_are_no_parameters(tokenizer):
    start = GellaConfig.gella_7b("mobilenet_v2")
    task = load_config("gella_masks_mobilenet_v2").recipe.task_for(start, tokenizer)
    shapes = jax.eval_shape(lambda key: model.init(task.model, key), jax.random.key(0))
    chosen, rest = partition(shapes, path_matcher(task.trainable))
    assert {path.rpartition("/")[2] for path in paths(rest)} == {"mean", "var"} and "blocks_0" in chosen["backbone"]


def test_a_start_has_to_be_what_the_row_is_about(tokenizer):
    start = GellaConfig.gella_7b()
    with pytest.raises(ValueError, match="wants the backbone swin_l: name it to `gella import` with --backbone FILE"):
        load_config("gella_masks_swin_l").recipe.task_for(start, tokenizer)
    large = dataclasses.replace(BACKBONES["swin_l"], window=7, remat="full")  # as EntitySeg's, and trained before
    start_l = dataclasses.replace(GellaConfig.gella_7b("swin_l"), backbone=large)
    assert load_config("gella_masks_swin_l").recipe.task_for(start_l, tokenizer).model.backbone.window == 7
    with pytest.raises(ValueError, match="wants a CLIP of 224 pixels, but that of the start takes 336"):
        load_config("gella_7b_clip_224").recipe.task_for(start, tokenizer)
    with pytest.raises(ValueError, match='has no low-rank updates for llm "lora": import it with lora_r'):
        load_config("gella_7b").recipe.task_for(start, tokenizer)
    with pytest.raises(ValueError, match="starts from a model: make one with `gella import`"):
        load_config("gella_7b").recipe.task(None)


def test_debugged_as_far_as_the_scenes_allow():
    """There is no RefCOCO among the scenes in the package; their own PNGs are taken for anybody's masks."""
    recipe = debugged(load_config("gella_7b_refer")).recipe
    assert recipe.families == (Family(0.4, "ground", ("png|val2017",)), Family(0.6, "ground", ("png|val2017",)))
    recipe = debugged(load_config("gella_7b_entity_predicted")).recipe
    assert recipe.masks == str(ASSETS / "scenes/coco/annotations/panoptic_val2017") and recipe.llm == "full"
    recipe = debugged(load_config("gella_masks_coco_predicted")).recipe
    assert recipe.families == (Family(1, "entities", ("coco_entity|val2017",)),) and recipe.masks.endswith("_val2017")


ROWS = {  # of the paper's tables, and the configs that train them; the others are of masks at test time alone
    "5a: CLIP at 224": "gella_7b_clip_224",
    "5a: CLIP at 336": "gella_7b",
    "5b: location-aware colours": "gella_7b_location_colours",
    "5b: random colours": "gella_7b",
    "6a: MobileNetV2": "gella_masks_mobilenet_v2",
    "6a: Swin-T": "gella_masks_swin_t",
    "6a: Swin-L": "gella_masks_swin_l",
    "6b: trained on masks predicted by a COCO model": "gella_masks_coco_predicted",
    "6b: trained on masks predicted by an EntitySeg model": "gella_masks_entity_predicted",
    "6b: trained on COCO's true masks": "gella_masks_mobilenet_v2",
    **{
        f"7: ResoBlend without {part.upper()}": f"gella_7b_without_{part}" for part in ("sa", "ca", "ff", "res", "conv")
    },
    "7: ResoBlend with all": "gella_7b",
    "8a: trained on masks predicted by a COCO model": "gella_7b_coco_predicted",
    "8a: trained on masks predicted by an EntitySeg model": "gella_7b_entity_predicted",
    "8a: trained on true masks": "gella_7b",
    "9: describe 0, nouns 0, ground 1": "gella_7b_ground",
    "9: describe 0, nouns .2, ground .8": "gella_7b_nouns_ground",
    "9: describe .2, nouns .2, ground .6": "gella_7b",
    "10: association by a linear layer": "gella_7b",
    "10: association by linear, ReLU, linear": "gella_7b_fc_relu_fc",
    "GELLA-7B, 12 epochs": "gella_7b_12_epochs",
    "GELLA-7B, 50 epochs": "gella_7b",
    "GELLA-13B, 12 epochs": "gella_13b_12_epochs",
    "GELLA-13B, 50 epochs": "gella_13b",
    "GELLA-7B": "gella_7b",
    "GELLA-13B": "gella_13b",
}
ILLEGIBLE = "9: describe .1, nouns .1, ground illegible"


def test_every_row_has_a_config_that_tells_its_number():
    rows = [row for row in SYSTEMS if "GELLA" in row.model]
    rows += [row for row in ABLATIONS if not row.model.startswith(("8b", "11"))]
    assert {row.model for row in rows} == {*ROWS, ILLEGIBLE}
    for row in rows:
        if row.model != ILLEGIBLE and (not row.dataset.startswith("refcoco") or row.dataset == "refcoco|unc|val"):
            text = ast.get_docstring(ast.parse(find_config(GELLA, ROWS[row.model]).read_text()))
            numbers = {f"{100 * value:.1f}" for value in row.metrics.values()}
            assert numbers <= set(re.findall(r"\d+\.\d", text)), row
            assert (
                row in SYSTEMS
                or ROWS[row.model] == "gella_7b"
                or re.search(rf"Table.* {row.model.partition(':')[0]}\b", text)
            )


def test_every_config_is_listed():
    listed = (GELLA.configs[0].parent / "README.md").read_text()
    names = {path.stem for path in GELLA.config_files()}
    assert set(re.findall(r"`(gella_\w+)`", listed)) == names


def test_a_command_can_change_a_recipe():
    experiment = changed(load_config("gella_7b"), ["--without", "sa", "conv", "--masks", "there", "--llm", "full"])
    assert isinstance(experiment.recipe, GellaRecipe)
    assert (experiment.recipe.without, experiment.recipe.masks, experiment.recipe.llm) == (
        ("sa", "conv"),
        "there",
        "full",
    )
