"""The mixture of datasets: proportions, reproducibility, what is drawn, and what is done about bad records."""

import collections
import dataclasses
import functools

import numpy as np
import pytest

from grounding_jax.data.datasets import open_dataset
from grounding_jax.language.rows import IGNORED
from grounding_jax.training.batches import BAD
from grounding_jax.training.mixture import Unusable, usable
from gsva_jax.data.mixture import PAPER, Family, Mixture, nearest_masks
from gsva_jax.data.samplers import draw_sample, sample_classes, sample_reasoning
from gsva_jax.weights import open_official
from tests.small_datasets import write_all

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_all(root, seed=0)
    return root


@pytest.fixture(scope="module")
def mixture(root, gsva_golden):
    sizes = gsva_golden / "config.json"
    checkpoint = open_official(gsva_golden / "gsva-tiny-a.bin", gsva_golden / "tiny-llava", sizes=sizes)
    return Mixture(str(root), checkpoint.config, checkpoint.tokenizer, length=768, canvas=64)


class Names(Mixture):
    """Gives the dataset and the number of a record instead of an example; every dataset has 97 records."""

    def _source(self, name):
        return Named(name)

    def example(self, source, number, rng):
        return {"record": (source.name, number)}


@dataclasses.dataclass(frozen=True)
class Named:
    name: str

    def __len__(self):
        return 97


def names_of(mixture):
    return Names(**{field.name: getattr(mixture, field.name) for field in dataclasses.fields(mixture)})


def test_proportions_are_the_papers(mixture):
    """Over 10,000 draws: 9 : 6 : 3 : 1, uniform over the datasets of a family and the images of a dataset."""
    names = names_of(mixture)(seed=5)
    drawn = [names[i]["record"] for i in range(10_000)]
    by_dataset = collections.Counter(name for name, _ in drawn)
    total = sum(family.rate for family in PAPER)
    for family in PAPER:
        for name in family.datasets:
            assert by_dataset[name] / 10_000 == pytest.approx(family.rate / total / len(family.datasets), abs=2e-3)
    images = collections.Counter(number for name, number in drawn if name == "ade20k|training")
    assert max(images.values()) - min(images.values()) <= 1
    assert [names[i]["record"] for i in range(0, 10_000, 97)] == drawn[::97]


def test_examples_are_a_function_of_seed_and_number(mixture):
    one, again, other = mixture(3), mixture(3), mixture(4)
    for i in (0, 7, 11):
        for key, value in one[i].items():
            np.testing.assert_array_equal(value, again[i][key])
    assert any((one[i]["ids"] != other[i]["ids"]).any() for i in range(5))


def test_examples_of_all_datasets_have_one_shape_and_their_targets(mixture):
    """What is [SEG] has a mask, what is [REJ] has none, and something is to be learned."""
    examples, shapes, kinds = mixture(0), set(), collections.Counter()
    for i in range(60):
        example = examples[i]
        shapes.add(tuple((name, value.shape, value.dtype.str) for name, value in sorted(example.items())))
        masks = np.unpackbits(example["masks"], axis=-1).astype(bool)
        valid, rejected = example["target_valid"], example["target_rejected"]
        assert not masks[~valid].any() and not masks[rejected].any()
        assert masks[valid & ~rejected].any((1, 2)).all()
        assert (example["seg_positions"][valid] > 0).all(), "no target is cut off"
        assert (example["labels"] != IGNORED).any() and example[BAD] == 0
        kinds[int(valid.sum())] += 1
    assert len(shapes) == 1 and kinds[0] and max(kinds) > 1


def test_one_dataset_is_walked_over_once_an_epoch(mixture):
    """Finetuning (spec gsva c.4, no_sampling)."""
    single = dataclasses.replace(mixture, families=(Family(1, ("refcoco|unc|train",)),))
    names = names_of(single)(seed=1)
    epochs = [[names[97 * epoch + i]["record"][1] for i in range(97)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(97)) for epoch in epochs) and epochs[0] != epochs[1]


def test_synthetic_negatives(root):
    """Off, everything that is asked for is there; at 1, as much as there are absent classes for is swapped."""
    source = open_dataset(root, "ade20k|training")
    record = next(source[i] for i in range(len(source)) if len(source[i].wordings) > 1)
    plain = sample_classes(record, np.random.default_rng(0), 5, source.classes)
    assert "[REJ]" not in plain.conversations[0][0][1] and plain.masks.any((1, 2)).all()
    half = next(
        sample
        for seed in range(50)
        if "[REJ]"
        in (sample := sample_classes(record, np.random.default_rng(seed), 5, source.classes, 0.5)).conversations[0][0][
            1
        ]
    )
    answer = half.conversations[0][0][1]
    assert answer.count("[REJ]") == (~half.masks.any((1, 2))).sum() > 0
    with pytest.raises(Unusable):
        sample_classes(record, np.random.default_rng(0), 5, source.classes, 1.0)


def test_explanations(root):
    """One in ten is words alone, the others half with an explanation and half without (spec gsva c.4)."""
    source = open_dataset(root, "ReasonSeg|train")
    record = next(source[i] for i in range(len(source)) if source[i].explanation)
    kinds = collections.Counter()
    for seed in range(2000):
        sample = sample_reasoning(record, np.random.default_rng(seed), 1)
        answer = sample.conversations[0][0][1]
        kinds["[SEG]" in answer, record.explanation in answer] += 1
        assert len(sample.masks) == answer.count("[SEG]")
    shares = {kind: count / 2000 for kind, count in kinds.items()}
    assert shares == pytest.approx({(False, True): 0.1, (True, True): 0.45, (True, False): 0.45}, abs=0.03)


class Damaged:
    """A source of which only the last record can be read."""

    name = "refcoco|unc|train"

    def __init__(self, whole, good):
        self.whole, self.good = whole, good

    def __len__(self):
        return 10

    def __getitem__(self, index):
        if index != 9 or not self.good:
            raise ValueError(f"record {index} is torn")
        return self.whole[0]


def test_damaged_records_are_named_counted_and_replaced(mixture, root, caplog):
    whole = open_dataset(root, "refcoco|unc|train")
    example = usable(Damaged(whole, good=True), 3, np.random.default_rng(1), make=mixture.example)
    assert example[BAD] == len(caplog.records) >= 1 and "record 3 is left out: record 3 is torn" in caplog.text
    assert example["target_valid"].any()
    with pytest.raises(ValueError, match="20 records of refcoco.unc.train in a row gave no example.*torn"):
        usable(Damaged(whole, good=False), 3, np.random.default_rng(1), make=mixture.example)


def test_a_picture_that_is_larger_than_the_canvas_is_made_to_fit(mixture, root):
    small = dataclasses.replace(mixture, canvas=32)
    source = open_dataset(root, "refcoco|unc|train")
    example = small.example(source, 0, np.random.default_rng(0))
    assert max(example["original"]) == 32 and example["masks"].shape == (5, 32, 4)
    masks = np.zeros((1, 4, 8), bool)
    masks[0, :, :4] = True
    assert nearest_masks(masks, (2, 4))[0].tolist() == [[True, True, False, False]] * 2


def test_conversations_without_room_are_left_out_with_their_masks(mixture, root, caplog):
    source = open_dataset(root, "ReasonSeg|train")
    drawn = [draw_sample(source[i], np.random.default_rng(s), 5) for i in range(len(source)) for s in range(5)]
    sample = max(drawn, key=lambda sample: len(sample.masks))
    assert len(sample.masks) > 1
    rows = functools.partial(dataclasses.replace, mixture)
    lengths = [(mixture.arrays(sample)["branch"] == branch).sum() for branch in range(len(sample.masks) + 1)]
    kept, masks = rows(length=int(sum(lengths[:2]))).fitting(sample, sample.masks)
    assert len(kept) == len(masks) == 1 and "have no room" in caplog.text
    with pytest.raises(ValueError, match="longer than the 40 tokens of a row"):
        rows(length=40).fitting(sample, sample.masks)
