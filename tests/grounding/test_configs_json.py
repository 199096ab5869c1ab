"""The config.json of a model folder: every value of its declared type, and sizes that can be."""

import dataclasses

import pytest

from grounding_jax.files import configs
from grounding_jax.weights import folder


@dataclasses.dataclass(frozen=True)
class Eye:
    width: int
    eps: float = 1e-6
    layer: int = -2
    rank: int = 0
    kind: str = "vit"
    stages: tuple[int, ...] = (0, 1)
    skip: bool = False

    def __post_init__(self):
        if self.kind not in ("vit", "swin"):
            raise ValueError(f"kind is {self.kind!r}, should be vit or swin")


@dataclasses.dataclass(frozen=True)
class Ear:
    rate: float


@dataclasses.dataclass(frozen=True)
class Head:
    eye: Eye
    other: Eye | Ear


def read(place, cls, text):
    """The config.json of a folder, with that text."""
    (place / "config.json").write_text(text)
    return folder.read_config(cls, place)


def test_both_directions(tmp_path):
    for other in (Eye(3, kind="swin", layer=-1, stages=(4,)), Ear(0.5)):
        head = Head(Eye(8, 1, rank=2, skip=True), other)
        assert read(tmp_path, Head, configs.to_json(head)) == head


@pytest.mark.parametrize(
    "text, message",
    [
        ("", r"config\.json is not valid JSON"),
        ("[" * 100_000, r"config\.json at \$: expected `object`, got `array`"),
        ('{"width": NaN}', r"config\.json is not valid JSON, line 1: every number must be finite"),
        ("[1]", r"config\.json at \$: expected `object`, got `array`"),
        ('{"width": 3, "size": 4}', r"Eye has unknown keys \['size'\] and lacks \[\]"),
        ("{}", r"lacks \['width'\]"),
        ('{"width": "3"}', r"config\.json, width: Expected `int`, got `str`"),
        ('{"width": 3.5}', r"width: Expected `int`, got `float`"),
        ('{"width": true}', r"width: Expected `int`, got `bool`"),
        ('{"width": null}', r"width: Expected `int`, got `null`"),
        ('{"width": 0}', r"width: is 0, should be a number from 1 to 2147483647"),
        ('{"width": 3000000000}', r"width: is 3000000000, should be a number from 1"),
        ('{"width": 3, "rank": -1}', r"rank: is -1, should be a number from 0"),
        ('{"width": 3, "eps": -1e-6}', r"eps: is -1e-06, should be a number from 0"),
        ('{"width": 3, "stages": [1, "2"]}', r"stages: Expected `int`, got `str` - at `\$\[1\]`"),
        ('{"width": 3, "stages": [-1]}', r"stages: is -1, should be a number from 0"),
        ('{"width": 3, "kind": "cnn"}', r"config\.json: kind is 'cnn', should be vit or swin"),
    ],
)
def test_values_that_are_no_sizes(tmp_path, text, message):
    with pytest.raises(folder.CheckpointError, match=f"^{tmp_path}/.*{message}"):
        read(tmp_path, Eye, text)


def test_the_place_of_a_value_inside(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json, other, rate: Expected `float`, got `str`"):
        read(tmp_path, Head, '{"eye": {"width": 3}, "other": {"rate": "x"}}')
    with pytest.raises(ValueError, match=r"config\.json, eye: is a JSON int, should be an object"):
        read(tmp_path, Head, '{"eye": 3, "other": {"rate": 1}}')
