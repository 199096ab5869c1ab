"""Every config of both systems resolves, names runs and datasets that exist, and makes examples that its task takes."""

import ast
import dataclasses
import functools
import re
import shlex

import jax
import numpy as np
import pytest

from gella_jax.cli import COMMANDS as GELLA_COMMANDS
from gella_jax.tiny.vocabulary import tiny_config, tiny_tokenizer
from gella_jax.training.experiment import GELLA
from gella_jax.training.recipe import GellaRecipe
from grounding_jax.cli.commands import parse_command
from grounding_jax.data.sources.registry import ENTITY_DATASETS, KNOWN_DATASETS
from grounding_jax.sharding.mesh import MeshShape, make_mesh
from grounding_jax.sharding.rules import shardings
from grounding_jax.training.experiment import changed, debugged, find_config, load_config
from grounding_jax.training.state import partition, path_matcher
from grounding_jax.training.task import Recipe
from gsva_jax.cli import COMMANDS as GSVA_COMMANDS
from gsva_jax.loading import find_checkpoint
from gsva_jax.training.experiment import GSVA
from gsva_jax.training.recipe import GsvaRecipe

SYSTEMS = {"gsva": GSVA, "gella": GELLA}
COMMANDS = {"gsva": GSVA_COMMANDS, "gella": GELLA_COMMANDS}
NAMES = {program: [path.stem for path in system.config_files()] for program, system in SYSTEMS.items()}
ALL = [(program, name) for program, names in NAMES.items() for name in names]
RECIPES = [
    (program, name)
    for program, name in ALL
    if isinstance(load_config(SYSTEMS[program], name).recipe, GsvaRecipe | GellaRecipe)
]


@functools.cache
def tiny_gella():
    return tiny_config(), tiny_tokenizer()


def debug_task(recipe: Recipe):
    """A task for the sizes of the shipped model, with weights that are random where there are none."""
    if isinstance(recipe, GellaRecipe):
        return recipe.task_for(*tiny_gella())
    return recipe.task(find_checkpoint("tiny") if isinstance(recipe, GsvaRecipe) else None)


def test_there_are_configs():
    assert {"gsva_tiny", "gsva_tiny_eyes", "gsva_tiny_masks", "gsva_tiny_words"} <= set(NAMES["gsva"])
    assert {"gella_7b", "gella_13b", "gella_tiny"} <= set(NAMES["gella"])


@pytest.mark.parametrize(("program", "name"), ALL)
def test_a_config_resolves(program, name):
    experiment = load_config(SYSTEMS[program], name)
    assert experiment.name == name
    assert set(experiment.starts_from) <= set(NAMES[program])
    assert experiment.options.batch_size % 2 == 0


CHECKED = set()  # steps, without their data, and the shapes of their batches


@pytest.mark.parametrize(("program", "name"), ALL)
def test_one_step_has_a_loss_and_a_place_for_every_parameter(program, name):
    """Two examples through the task as configured, by shape: nothing is compiled. A recipe takes what --debug does.

    Configs that differ in their data alone have one step.
    """
    task = debug_task(debugged(load_config(SYSTEMS[program], name)).recipe)
    examples = task.examples(seed=0)
    drawn = [examples[i] for i in range(2)]
    batch = {key: np.stack([example[key] for example in drawn]) for key in drawn[0]}
    batch["example"] = np.arange(2, dtype=np.int32)
    step = step_of(task), str({key: (value.shape, value.dtype) for key, value in batch.items()})
    if step in CHECKED:
        return
    params = jax.eval_shape(task.init, jax.random.key(0))
    shardings(make_mesh(MeshShape()), task.sharding(), params)
    if "helpers" in task.start_keys:
        masks = load_config(GSVA, "gsva_tiny_masks").recipe
        params = {**params, "helpers": jax.eval_shape(masks.init, jax.random.key(0))["helpers"]}
    assert {path for path in task.export_keys} <= set(params) | {"helpers"}
    update = jax.random.key(0)
    loss, scalars = jax.eval_shape(lambda *given: task.loss(given[0], task.prepare(given[1]), update), params, batch)
    assert loss.shape == () and all(value.shape == () for value in scalars.values())
    trained, frozen = partition(params, path_matcher(task.trainable))
    assert jax.tree.leaves(trained) and all(name in params for name in (*trained, *frozen))
    CHECKED.add(step)


def step_of(task) -> str:
    parts = {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
    return str({name: part for name, part in parts.items() if name not in ("data", "validation", "tokenizer", "fresh")})


FINETUNED = {"families", "epochs", "canvas", "learning_rate"}
BASES = ("gsva_7b", "gella_7b", "gsva_tiny_packed")
MASKS_ALONE = {"blend", "backbone", "families", "validation"}
CHANGED = {  # fields in which a recipe differs from the base, gsva_7b or gella_7b
    "gsva_13b": {"mesh"},
    "gsva_13b_llama2": {"mesh"},
    "gsva_7b_grefcoco": FINETUNED,
    "gsva_7b_refzom": FINETUNED | {"validation"},
    "gsva_7b_res": FINETUNED - {"epochs"} | {"validation"},
    "gsva_own_data": FINETUNED - {"canvas"} | {"validation", "batch_size", "accumulate", "warmup_steps"},
    "lisa_7b": {"families", "validation", "max_targets", "tokens"},
    "gsva_7b_eight_tokens": {"tokens"},
    "gsva_7b_targets": set(),
    "gsva_7b_sam_l": set(),
    "gsva_7b_sam_b": set(),
    "gella_13b": set(),
    "gella_13b_12_epochs": {"epochs", "drops"},
    "gella_7b_12_epochs": {"epochs", "drops"},
    "gella_7b_clip_224": {"clip_size"},
    "gella_7b_coco_predicted": {"masks"},
    "gella_7b_entity_predicted": {"masks"},
    "gella_7b_fc_relu_fc": {"association"},
    "gella_7b_frozen": {"llm"},
    "gella_7b_full": {"llm"},
    "gella_7b_ground": {"families"},
    "gella_7b_literal": {"blend"},
    "gella_7b_location_colours": {"colours"},
    "gella_7b_mask_query": {"blend"},
    "gella_7b_nouns_ground": {"families"},
    "gella_7b_paper": {"blend"},
    "gella_7b_refer": {"families", "epochs", "validation"},
    **{f"gella_7b_without_{part}": {"without"} for part in ("sa", "ca", "ff", "res", "conv")},
    **{f"gella_masks_{backbone}": MASKS_ALONE for backbone in ("swin_t", "swin_l", "mobilenet_v2")},
    "gella_masks_coco_predicted": MASKS_ALONE | {"masks"},
    "gella_masks_entity_predicted": MASKS_ALONE | {"masks"},
}


@pytest.mark.parametrize(("program", "name"), [one for one in RECIPES if one[1] not in BASES])
def test_a_recipe_differs_from_the_base_in_what_its_name_says(program, name):
    base, experiment = (load_config(SYSTEMS[program], one) for one in (f"{program}_7b", name))
    pairs = ((base.recipe, experiment.recipe), (base.options, experiment.options))
    fields = [(old, new, field.name) for old, new in pairs for field in dataclasses.fields(old)]
    assert {field for old, new, field in fields if getattr(old, field) != getattr(new, field)} == CHANGED[name]


@pytest.mark.parametrize(("program", "name"), RECIPES)
def test_a_recipe_names_known_datasets(program, name):
    recipe = load_config(SYSTEMS[program], name).recipe
    own = {"jsonl|train.jsonl", "jsonl|val.jsonl"} if name == "gsva_own_data" else set()
    named = {dataset for family in recipe.families for dataset in family.datasets} | {recipe.validation} - {""}
    known = KNOWN_DATASETS if program == "gsva" else (*KNOWN_DATASETS, *ENTITY_DATASETS)
    assert named <= set(known) | own and set(recipe.datasets()) == named


@pytest.mark.parametrize(("program", "name"), RECIPES)
def test_a_recipe_tells_its_commands(program, name):
    """From published weights to the training; every word of theirs is one that the program knows."""
    text = ast.get_docstring(ast.parse(find_config(SYSTEMS[program], name).read_text()))
    lines = re.findall(rf"^    .*?({program} .*?)(?:; done)?$", text.replace("\\\n", ""), re.MULTILINE)
    commands = [parse_command(program, COMMANDS[program], "", shlex.split(line, comments=True)[1:]) for line in lines]
    assert any(isinstance(command, COMMANDS[program]["import"]) for command in commands) or name == "gsva_tiny_packed"
    assert re.search("table A3" if program == "gsva" else "Tables? [2-9]|Table 10|No row", text)
    trainings = [command for command in commands if isinstance(command, COMMANDS[program]["train"])]
    assert name in [training.config for training in trainings]
    for training in trainings:
        experiment = load_config(SYSTEMS[program], training.config)
        changed(experiment, [word.replace("$M", "3") for word in training.overrides])
