"""The driver of evaluations with a system of a few lines: what is asked together, what is kept, and what is written."""

import dataclasses
import json
import types

import numpy as np
import pytest

import gsva_jax
from grounding_jax.evaluation.run import Evaluation, Prepared, Task, as_json, find_task, run
from tests.small_gella import small_tokenizer


class Squares:
    """Answers a number with its square, `multiple` rows at a time."""

    def __init__(self, multiple: int = 1):
        self.batches = []
        self.engine = types.SimpleNamespace(
            config=types.SimpleNamespace(to_json=lambda: "{}"),
            dtype=np.float32,
            tokenizer=small_tokenizer(),
            params={"x": np.ones((2, 2), np.float32)},
            batcher=types.SimpleNamespace(multiple=multiple),
        )


def prepare(model, setting, records):
    """Odd and even numbers have two shapes; 7 can't be asked about."""
    return [Prepared(number, (number % 2,), {"square": None} if number == 7 else None) for number in records]


def predict(model, setting, items):
    model.batches.append(list(items))
    return [{"square": item**2} for item in items]


def report(setting, lines):
    return {"sum": sum(line["square"] or 0 for line in lines), "setting": setting}


TASK = Task(prepare, predict, report, ("official", "guided"))


def evaluation(model) -> Evaluation:
    head = {"dataset": "numbers", "protocol": "guided"}
    return Evaluation(gsva_jax, model, TASK, "as it is", [3, 4, 7, 8, 5, 6, 9], head, {"data": "here"})


def test_pictures_of_a_shape_are_asked_together_and_batches_are_full(tmp_path):
    model, file, listed = Squares(), tmp_path / "report.json", tmp_path / "squares.txt"
    outputs = {file: as_json, listed: lambda report, lines: " ".join(str(line["square"]) for line in lines), None: None}
    found = run(evaluation(model), outputs, batch_size=2)
    assert model.batches == [[4, 8], [3, 5], [6, 9]]
    assert found == {
        "dataset": "numbers", "protocol": "guided", "num_images": 7, "sum": 231, "setting": "as it is"
    }  # fmt: skip
    assert json.loads(file.read_text()) == found and listed.read_text() == "9 16 None 64 25 36 81"
    assert {*tmp_path.iterdir()} == {file, listed}


def test_a_task_that_asks_no_model_prepares_in_batches_and_goes_on(tmp_path):
    seen, broken = [], True

    def prepare_all(model, setting, records):
        assert model is None
        seen.append(records)
        return prepare(model, setting, records)

    def stop(model, setting, items):
        if broken:
            raise KeyboardInterrupt
        return [{"square": item**2} for item in items]

    alone = dataclasses.replace(evaluation(None), task=Task(prepare_all, stop, report, ("guided",)))
    with pytest.raises(KeyboardInterrupt):
        run(alone, {tmp_path / "report.json": as_json}, batch_size=3)
    broken = False
    assert run(alone, {tmp_path / "report.json": as_json}, batch_size=3)["sum"] == 231
    # The first time, 7 was done before a batch was full; and a batch that is full is asked at once.
    assert seen == [[3, 4, 7], [8, 5, 6], [3, 4, 8], [5, 6, 9]]


def test_a_last_batch_is_padded_with_its_first_row_to_what_divides():
    model = Squares(multiple=4)
    assert run(evaluation(model), {}, batch_size=3)["sum"] == 231
    assert model.batches == [[4, 8, 6, 3], [5, 9, 5, 5]]


def test_a_table_of_tasks():
    tasks = {"numbers|odd": TASK, "numbers|even": TASK, "files|": TASK}
    assert find_task(tasks, "files|a.txt", "guided") is TASK
    with pytest.raises(ValueError, match=r"'numbers\|all' can't be evaluated; the .* that can are numbers\|odd/even"):
        find_task(tasks, "numbers|all", "guided")
    with pytest.raises(ValueError, match="'numbers.odd' has no protocol 'generated'; there are official, guided"):
        find_task(tasks, "numbers|odd", "generated")
