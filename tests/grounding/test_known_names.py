"""The shipped model says when it is asked for what it can't know."""

import json

import pytest

from grounding_jax.data.scenes.cutouts import KINDS
from grounding_jax.inference.known_names import FILE, unknown_line
from gsva_jax.cli import main
from gsva_jax.config import ASSETS
from gsva_jax.predict import Answer
from tests.command_line import write_picture

pytestmark = pytest.mark.quick

TINY = ASSETS / "tiny"


def test_the_file_has_the_kinds_that_the_model_was_trained_on():
    names = json.loads((TINY / FILE).read_text())["names"]
    assert list(names.items()) == [(kind.noun, kind.plural) for kind in KINDS]


def test_what_names_nothing_known_is_said_once():
    texts = ["the left Dog", "astronaut", "all buses", "the cartoon", "astronaut"]
    line = unknown_line(TINY, "tiny", texts)
    assert line == (
        "tiny knows 48 drawn things, such as apple, donut, penguin, bee, umbrella, star "
        f"(all: {TINY / FILE}); it only guesses at 'astronaut', 'the cartoon'"
    )
    assert unknown_line(TINY, "tiny", texts[:1]) is None


def test_a_model_that_does_not_say_what_it_knows_is_asked_for_anything(tmp_path):
    assert unknown_line(tmp_path, "large", ["astronaut"]) is None


class Silent:
    """A model that finds nothing, in no time."""

    def ask(self, *asked):
        return Answer("No.", ())

    def segment_many(self, asked, threshold):
        return [Answer("No.", ())] * len(asked)


def test_the_commands_say_it(tmp_path, capsys, monkeypatch, no_kept_programs):
    monkeypatch.setattr("gsva_jax.loading.load", lambda *arguments: Silent())
    picture = write_picture(tmp_path / "picture.png")
    assert main(["segment", str(picture), "the dog", "an astronaut", "--out", str(tmp_path)]) == 0
    assert "known_names.json); it only guesses at 'an astronaut'\n" in capsys.readouterr().err
    assert main(["ask", str(picture), "Can you fly?", "--max-new", "1", "--out", str(tmp_path)]) == 0
    assert "known_names.json); it only guesses at 'Can you fly?'\n" in capsys.readouterr().err
