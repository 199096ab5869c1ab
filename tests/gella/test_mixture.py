"""GELLA's mixture: what each task teaches of a record, exactly, and what is done about bad ones."""

import collections
import dataclasses
import functools
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from gella_jax.colormap import draw_entities, location_colours, paint
from gella_jax.data.arrays import example_arrays
from gella_jax.data.input_masks import find_matches, with_masks
from gella_jax.data.mixture import PAPER, Family, Mixture, task_of
from gella_jax.data.samplers import TASKS, Draw, Sample
from grounding_jax.data.datasets import open_dataset
from grounding_jax.data.entity_masks import TRUE_MASKS, Entities, mask_reader
from grounding_jax.language.rows import IGNORED
from grounding_jax.training.batches import BAD
from grounding_jax.training.mixture import Unusable, usable
from tests.small_datasets import write_llava, write_refer
from tests.small_gella import small_config, small_tokenizer
from tests.small_panoptic import NARRATIVES, part, write_entityseg, write_json, write_narratives, write_panoptic_tree

pytestmark = pytest.mark.quick

LENGTH = 500
PNG = "png|val2017"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_panoptic_tree(root)
    write_narratives(root)
    write_entityseg(root)
    write_llava(root, np.random.default_rng(0))
    write_refer(root, np.random.default_rng(0), "refcoco|unc")
    return root


def mixture_of(root, *families, config=None, **changes) -> Mixture:
    families = tuple(Family(1, *family) for family in families)
    return Mixture(
        str(root),
        config or small_config(),
        small_tokenizer(),
        families,
        **{"max_nouns": 8, "length": LENGTH, **changes},
    )


def example_of(root, task, dataset, number, **changes):
    mixture = mixture_of(root, **changes)
    return maker(mixture, task)(open_dataset(root, dataset), number, np.random.default_rng(0))


def maker(mixture, task="ground"):
    reader = None if mixture.masks == TRUE_MASKS else mask_reader(mixture.masks)
    return functools.partial(mixture.example, task, reader)


def told(example) -> list[list[int]]:
    """For each noun, the numbers of the masks that it means."""
    nouns = int((example["seg_positions"] >= 0).sum())
    assert not example["meant"][nouns:].any() and not example["absent"][nouns:].any()
    return [(np.flatnonzero(row) + 1).tolist() for row in example["meant"][:nouns]]


def test_a_narrative(root):
    """Two people (7, 300), a wall (70000), the dog, which is not grounded, and people, which is a crowd."""
    example = example_of(root, "ground", PNG, 0)
    assert told(example) == [[1, 2], [3], [], []] and not example["absent"].any()
    assert example["visible"].tolist() == [True] * 3 + [False] * 3 and example["segmented"]
    index = example["index"]
    assert index.shape == (64, 64) and not index[38:].any(), "12 x 20 pixels are 38 x 64 of the colormap"
    assert index[30, [3, 19, 32, 45, 60]].tolist() == [1, 0, 2, 3, 0], "void and a crowd are background"
    text = small_tokenizer().decode(example["labels"][example["labels"] != IGNORED])
    assert text.startswith("There are four semantic nouns, including two people [SEG], a wall [SEG], the dog [SEG]")


def test_nouns_without_masks_are_negatives_where_that_is_asked_for(root):
    """What means a crowd is there, though it is not an entity."""
    example = example_of(root, "ground", PNG, 0, ungrounded="negative")
    assert example["absent"][:4].tolist() == [False, False, True, False] and told(example) == [[1, 2], [3], [], []]


def test_words_that_do_not_join_to_the_caption_are_learned_all_the_same(root):
    """ "clouds" is not in the caption of narrative 1, so that it has no span."""
    example = usable(open_dataset(root, PNG), 1, np.random.default_rng(0), make=maker(mixture_of(root)))
    assert told(example) == [[2], [1], [1]] and example[BAD] == 0


def test_nouns_and_descriptions(root):
    """Nouns know the entities but not which are meant; descriptions know nothing of masks."""
    nouns = example_of(root, "nouns", PNG, 0)
    assert told(nouns) == [[], [], [], []] and not nouns["absent"].any() and nouns["segmented"]
    assert nouns["visible"].sum() == 3
    for dataset in (PNG, "llava_instruct_150k"):
        described = example_of(root, "describe", dataset, 0)
        assert not described["segmented"] and not described["visible"].any() and not described["index"].any()
        assert (described["labels"] != IGNORED).any() and told(described) == []


def test_instructions(root, tmp_path):
    """Entries for one task are a dataset; those that are grounded tell nouns and describe, too, not the reverse."""
    shutil.copytree(root, tmp_path / "root")
    picture, png = "coco/val2017/000000000139.jpg", "coco/annotations/panoptic_segmentation/val2017/000000000139.png"
    common = {"id": 1, "image": picture, "caption": "People at a wall."}
    nouns = [
        {"text": "People", "start": 0, "end": 6, "segment_ids": [7, 300]},
        {"text": "a wall", "start": 10, "end": 16},
    ]
    entries = [
        {**common, "task": "describe"},
        {**common, "task": "nouns", "nouns": nouns[1:]},
        {**common, "task": "ground", "nouns": nouns, "masks": png},
    ]
    write_json(tmp_path / "root" / "instructions" / "own.json", entries)
    described, named, grounded = (f"instructions|own|{task}" for task in ("describe", "nouns", "ground"))
    example = functools.partial(example_of, tmp_path / "root")
    assert told(example("ground", grounded, 0)) == [[1, 2], []] and not example("ground", grounded, 0)["absent"].any()
    assert example("ground", grounded, 0, ungrounded="negative")["absent"].tolist() == [False, True] + [False] * 6
    assert told(example("nouns", grounded, 0)) == [[], []] and example("nouns", grounded, 0)["visible"].sum() == 3
    assert told(example("nouns", named, 0)) == [[]] and not example("nouns", named, 0)["segmented"]
    for name in (described, named, grounded):
        text = example("describe", name, 0)
        answer = small_tokenizer().decode(text["labels"][text["labels"] != IGNORED])
        assert answer.startswith("People at a wall.") and not text["segmented"]
    with pytest.raises(Unusable, match="there are no masks that nouns could mean"):
        example("ground", named, 0)
    with pytest.raises(Unusable, match="the caption has no noun"):
        example("nouns", described, 0)
    assert task_of(grounded) == "ground"


def test_expressions(root):
    """Each is its own noun, and the candidates are all instances but the crowd, and one that has no pixel."""
    source = open_dataset(root, "refcoco|unc|train")
    record = source[0]
    example = example_of(root, "refer", source.name, 0)
    assert example["visible"].sum() == 3 and (example["branch"].max(), len(told(example))) == (4, 4)
    seen = [number for number in record.entities.ids if number != 4]
    ids, texts = example["ids"], []
    for branch in range(1, 5):
        answer = small_tokenizer().decode(ids[(example["branch"] == branch)]).rpartition("noun: ")[2]
        texts.append(answer.partition(" [SEG]")[0])
    expected = [record.instance_ids[record.raw_expressions.index(text)] for text in texts]
    assert told(example) == [[seen.index(n) + 1 for n in numbers if n in seen] for numbers in expected]
    assert not example["absent"].any(), "a crowd is there"
    untold = dataclasses.replace(record, instance_ids=None)
    with pytest.raises(ValueError, match="nothing tells which instances are meant in .*000100.jpg"):
        TASKS["refer"].sample(untold, Draw(np.random.default_rng(0), 8))


def test_categories(root):
    """Those in the picture, and others as far as there is room; a category of a crowd alone is not told."""
    example = example_of(root, "panoptic", "panoptic|val2017", 0)
    assert told(example) == [[1, 2], [], [3], []] and example["absent"][:4].tolist() == [False, True, False, True]
    few = example_of(root, "panoptic", "panoptic|val2017", 0, max_nouns=2)
    assert told(few) == [[1, 2], [3]] and not few["absent"].any()
    with pytest.raises(ValueError, match="image 139 has 2 categories, room is for 1 nouns"):
        example_of(root, "panoptic", "panoptic|val2017", 0, max_nouns=1)


def test_masks_alone(root):
    """Without ResoBlend there are neither text nor pictures (Table 6)."""
    config = small_config(blend=None)
    example = example_of(root, "entities", "coco_entity|val2017", 0, config=config)
    assert set(example) == {"colormaps", "index", "visible", "segmented"} and example["visible"].sum() == 3
    assert example_of(root, "entities", "entityseg|val", 1, config=config)["visible"].sum() == 4


def test_proportions_and_orders(root):
    """.2 : .2 : .6, and nouns are of other records than narratives are at the same time."""
    assert [(family.task, family.rate) for family in PAPER] == [("describe", 0.2), ("nouns", 0.2), ("ground", 0.6)]
    drawn = []

    @dataclasses.dataclass(frozen=True)
    class Names(Mixture):
        def example(self, task, read_masks, source, number, rng):
            drawn.append((task, number))
            return {}

    families = tuple(dataclasses.replace(family, datasets=(PNG,)) for family in PAPER)
    examples = Names(str(root), small_config(), small_tokenizer(), families)(0)
    for i in range(60):
        examples[i]
    assert collections.Counter(task for task, _ in drawn) == {"describe": 12, "nouns": 12, "ground": 36}
    orders = [[number for one, number in drawn if one == task][:12] for task in ("describe", "nouns", "ground")]
    assert orders[0] != orders[1] != orders[2]


def test_an_example_is_a_function_of_seed_and_number_colours_included(root):
    mixture = mixture_of(root, ("ground", (PNG,)), ("refer", ("refcoco|unc|train",)))
    one, again, other = mixture(3), mixture(3), mixture(4)
    shapes, different = set(), 0
    for i in range(4):
        first, second = one[i], again[i]
        shapes.add(tuple((name, value.shape, value.dtype.str) for name, value in sorted(first.items())))
        for key, value in first.items():
            np.testing.assert_array_equal(value, second[key])
        different += (first["colormaps"] != other[i]["colormaps"]).any()
    assert len(shapes) == 1 and different


def test_colormaps_are_painted_anew_for_every_example(root, tmp_path):
    """Of one picture every epoch has random colours of its own; those of places are a function of the masks."""
    write_panoptic_tree(tmp_path)
    write_json(tmp_path / "coco" / "annotations" / "png_coco_val2017.json", NARRATIVES[:1])
    random = mixture_of(tmp_path, ("ground", (PNG,)))(0)
    placed = mixture_of(tmp_path, ("ground", (PNG,)), config=small_config(colours="location"))(0)
    drawn = draw_entities(open_dataset(tmp_path, PNG)[0].entities.masks, np.zeros(3), 64)
    seen = set()
    for i in range(4):
        example = random[i]
        np.testing.assert_array_equal(example["index"], drawn.index)
        background = drawn.index == 0
        assert not example["colormaps"][background].any() and example["colormaps"][~background].any(-1).all()
        seen.add(example["colormaps"].tobytes())
    assert len(seen) == 4
    for i in range(2):
        np.testing.assert_array_equal(placed[i]["colormaps"], paint(drawn.index, location_colours(drawn)))


def test_the_largest_of_too_many_entities_are_kept():
    """300 in a picture and room for 6: the others are background, and nouns mean what is left."""
    largest, masks = (5, 27, 111, 163, 208, 290), np.zeros((300, 60, 60), bool)
    for k in range(300):
        row, column = divmod(k, 20)
        masks[k, 4 * row : 4 * row + 4, 3 * column : 3 * column + 2 + (k in largest)] = True
    entities = Entities(masks, tuple(range(1000, 1300)), tuple(map(str, range(300))))
    sample = Sample([[("What?", "There are two semantic nouns, including a [SEG] and b [SEG].")]], entities)
    sample = sample._replace(meant=((1027, 1028), (1004,)), absent=(False, False))
    config = small_config(side=60)
    arguments = np.zeros((60, 60, 3), np.uint8), sample, LENGTH, 8, np.random.default_rng(0)
    example = example_arrays(config, small_tokenizer(), *arguments)
    assert example["visible"].all() and told(example) == [[2], []]
    for number, k in enumerate(largest, 1):
        np.testing.assert_array_equal(example["index"] == number, masks[k])


# Somebody's masks as training input (Tables 6b, 8a).


def boxes(*corners) -> np.ndarray:
    masks = np.zeros((len(corners), 10, 10), bool)
    for mask, (top, left, bottom, right) in zip(masks, corners, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def test_nouns_mean_the_masks_that_match_by_more_than_half():
    true = boxes((0, 0, 4, 10), (4, 0, 8, 5), (4, 5, 8, 10), (8, 0, 10, 10))
    inputs = boxes(
        (0, 0, 8, 10),  # 40 of 80 pixels are true mask 0: exactly one half is too little
        (4, 0, 8, 4),  # 16 of 20: true mask 1
        (4, 0, 7, 5),  # 15 of 20: true mask 1 as well
        (4, 5, 8, 8),  # 12 of 20: true mask 2
        (9, 0, 10, 10),  # 10 of 20: nothing
    )
    assert find_matches(true, inputs) == [(), (1, 2), (3,), ()]
    ids = (70, 300, 5, 41)
    before = Sample([], Entities(true, ids, tuple(map(str, ids))), ((300, 5), (70,), (41, 5), (), (999,)), (False,) * 5)
    given = Entities(inputs, (11, 12, 13, 14, 15), ("a",) * 5)
    after = with_masks(before._replace(absent=(False, False, False, True, False)), given)
    assert after.entities is given and after.meant == ((12, 13, 14), (), (14,), (), ())
    assert after.absent == (False, False, False, True, False), "what has no match is not told, and never absent"


def save_masks(folder, stem, ids):
    folder.mkdir(exist_ok=True)
    Image.fromarray(ids.astype(np.uint8)).save(folder / f"{stem}.png")


@pytest.fixture
def predicted(tmp_path):
    """Masks of picture 139: its first segment is found, the second and the third are taken for one."""
    ids = np.zeros((12, 20), int)
    ids[2:, 0:5], ids[2:, 8:16] = 9, 4
    save_masks(tmp_path / "masks", "000000000139", ids)
    return tmp_path / "masks"


def test_predicted_masks_are_painted_and_are_what_is_to_be_found(root, predicted):
    example = example_of(root, "ground", PNG, 0, masks=str(predicted))
    assert example["visible"].sum() == 2 and example["index"][30, [3, 14, 19, 30, 45, 60]].tolist() == [
        2,
        2,
        0,
        1,
        1,
        0,
    ]
    # Segment 7 is 40 of the 50 pixels of mask 9; 300 and 70000 are 40 of 80 each.
    assert told(example) == [[2], [], [], []] and not example["absent"].any()
    coloured = example["colormaps"][30, [3, 14, 30, 45]]
    assert (
        (coloured[0] == coloured[1]).all() and (coloured[2] == coloured[3]).all() and (coloured[0] != coloured[2]).any()
    )
    nouns = example_of(root, "nouns", PNG, 0, masks=str(predicted))
    np.testing.assert_array_equal(nouns["index"], example["index"])
    alone = example_of(
        root, "entities", "coco_entity|val2017", 0, masks=str(predicted), config=small_config(blend=None)
    )
    np.testing.assert_array_equal(alone["index"], example["index"])
    described = example_of(root, "describe", PNG, 1, masks=str(predicted))
    assert not described["segmented"], "where no masks are put in, none are looked for"


def test_masks_that_are_not_there_are_named_at_once(root):
    with pytest.raises(
        FileNotFoundError, match="there are no masks 'nowhere': name a json about all pictures, or a folder with"
    ):
        mixture_of(root, ("ground", (PNG,)), masks="nowhere")(0)


# Bad input: named, counted, replaced.


class Two:
    """A source of a bad record and a good one."""

    name = PNG

    def __init__(self, source, bad, good):
        self.records = {0: (source, bad), 1: (source, good)}

    def __len__(self):
        return 2

    def __getitem__(self, number):
        source, place = self.records[number]
        return source[place]


def replaced(caplog, mixture, source, bad, good, task="ground") -> str:
    """The warning about a bad record, in whose place a good one comes."""
    caplog.clear()
    make = maker(mixture, task)
    example = usable(Two(source, bad, good), 0, np.random.default_rng(1), make=make)
    assert example[BAD] == len(caplog.records) > 0
    expected = make(source, good, np.random.default_rng(0))
    for key in ("index", "visible", "segmented"):
        np.testing.assert_array_equal(example[key], expected[key])
    (message,) = {record.getMessage() for record in caplog.records}
    assert message.startswith(f"{PNG}, record 0 is left out: ") and "\n" not in message
    return message.partition("left out: ")[2]


@pytest.fixture
def narratives(tmp_path):
    """A tree with more narratives: one of a picture without entities, and one that can be changed."""
    write_panoptic_tree(tmp_path)
    crowd = {"image_id": 632, "caption": "A crowd.", "segments": [part("A crowd", "12")]}
    write_json(tmp_path / "coco" / "annotations" / "png_coco_val2017.json", [*NARRATIVES, crowd])
    return tmp_path


def test_more_nouns_or_tokens_than_there_is_room_for(root, caplog):
    source = open_dataset(root, PNG)
    reason = replaced(caplog, mixture_of(root, max_nouns=3), source, 0, 1)
    assert reason.startswith("a row needs 4 targets, but has room for 3: '")
    needed = int((example_of(root, "ground", PNG, 0)["branch"] >= 0).sum())
    shorter = int((example_of(root, "ground", PNG, 1)["branch"] >= 0).sum())
    assert shorter < needed - 20
    reason = replaced(caplog, mixture_of(root, length=needed - 20), source, 0, 1)
    assert "tokens, picture included, but has room for" in reason
    config = small_config(model_max_length=needed - 20)
    reason = replaced(caplog, mixture_of(root, config=config), source, 0, 1)
    assert "tokens, but the model takes" in reason


def test_a_picture_without_entities(narratives, caplog):
    reason = replaced(caplog, mixture_of(narratives), open_dataset(narratives, PNG), 3, 1)
    assert reason == "nothing is seen of any entity of the picture, which has 0"


def test_a_caption_without_nouns_is_passed_over(root):
    """Nothing is wrong with it: it is replaced, and not counted."""
    source = open_dataset(root, PNG)
    example = usable(Two(source, 2, 1), 0, np.random.default_rng(1), make=maker(mixture_of(root)))
    assert example[BAD] == 0 and told(example) == [[2], [1], [1]]


def test_segments_that_are_not_there(narratives, caplog):
    """Of the json, or of the PNG."""
    annotations = narratives / "coco" / "annotations"
    file = annotations / "png_coco_val2017.json"
    content = json.loads(file.read_text())
    content[0]["segments"][1]["segment_ids"] = ["8"]
    write_json(file, content)
    reason = replaced(caplog, mixture_of(narratives), open_dataset(narratives, PNG), 0, 1)
    assert reason == f"{file}: narrative 0 has segment 8, which image 139 lacks"
    panoptic = annotations / "panoptic_val2017.json"
    content = json.loads(panoptic.read_text())
    (annotation,) = [entry for entry in content["annotations"] if entry["image_id"] == 139]
    annotation["segments_info"].append({**annotation["segments_info"][0], "id": 8})
    write_json(panoptic, content)
    reason = replaced(caplog, mixture_of(narratives), open_dataset(narratives, PNG), 0, 1)
    png = annotations / "panoptic_segmentation" / "val2017" / "000000000139.png"
    assert reason == f"the annotation of image 139 has the segment 8, of which {png} has no pixel"


def test_pictures_of_which_there_are_no_masks(root, predicted, caplog):
    """No file, a file without a mask, and masks of another size."""
    mixture, source = mixture_of(root, masks=str(predicted)), open_dataset(root, PNG)
    reason = replaced(caplog, mixture, source, 1, 0)
    assert reason.startswith("there are no masks for '000000000285.jpg': no ")
    save_masks(predicted, "000000000285", np.zeros((20, 12)))
    reason = replaced(caplog, mixture, source, 1, 0)
    assert reason == f"there is not one mask in '{predicted / '000000000285.png'}'"
    save_masks(predicted, "000000000285", np.ones((12, 20)))
    reason = replaced(caplog, mixture, source, 1, 0)
    assert reason == f"'{predicted / '000000000285.png'}' has 12 x 20 pixels, but the picture has 20 x 12"
    results = predicted / "results.json"
    strip = {"image_id": 139, "segmentation": [[0, 2, 5, 2, 5, 12, 0, 12]], "category_id": 1, "score": 0.5}
    write_json(results, [strip])  # lists what was found: of 285, nothing
    reason = replaced(caplog, mixture_of(root, masks=str(results)), source, 1, 0)
    assert reason == f"'{results}' has no picture '285'"


def test_datasets_that_a_task_can_not_be_learned_of(root):
    with pytest.raises(
        ValueError, match=r"'panoptic\|val2017' is no dataset to learn ground of, which takes records of"
    ):
        mixture_of(root, ("ground", ("panoptic|val2017",)))(0)
    with pytest.raises(ValueError, match=r"'coco_entity\|val2017' is no dataset to learn panoptic of"):
        mixture_of(root, ("panoptic", ("coco_entity|val2017",)))(0)
    datasets = (PNG, "refcoco|unc|val", "panoptic|val2017", "coco_entity|val2017", "entityseg|val")
    assert [task_of(name) for name in datasets] == ["ground", "refer", "panoptic", "entities", "entities"]
    with pytest.raises(ValueError, match="'llava_instruct_150k' tells nothing of masks"):
        task_of("llava_instruct_150k")
