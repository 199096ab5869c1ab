"""The files of an unfinished evaluation: going on, sharing it between processes, and putting the parts together."""

import json

import pytest

from grounding_jax.evaluation.progress import PartialResults

pytestmark = pytest.mark.quick

IDENTITY = {"model": "a", "dataset": "grefcoco|unc|val"}


def lines(*indices: int) -> list[dict]:
    return [{"index": index, "value": index**2} for index in indices]


def test_parts_are_put_together_when_all_are_there(tmp_path):
    report = tmp_path / "new" / "report.json"
    first, second = (PartialResults(report, IDENTITY, 7, (k, 2)) for k in (0, 1))
    assert (list(first.own), list(second.own)) == ([0, 2, 4, 6], [1, 3, 5])
    assert (first.is_first, second.is_first) == (True, False)
    files = {report.with_suffix(f".{k}-of-2.partial.jsonl") for k in (0, 1)}
    assert {*report.parent.iterdir()} == files
    first.add(lines(0, 6, 4))
    first.add(lines(2))
    second.add(lines(5))
    with pytest.raises(ValueError, match=r"2 of 7 pictures are in no file beside .*0-of-2.partial.jsonl: 1, 3; start"):
        first.gather()
    second.add(lines(1, 3))
    assert first.gather() == second.gather() == lines(0, 1, 2, 3, 4, 5, 6)
    second.finish({})
    assert {*report.parent.iterdir()} == files
    first.finish({})
    assert not list(report.parent.iterdir())


def test_a_picture_counts_once_however_often_it_was_written(tmp_path):
    report = tmp_path / "report.json"
    PartialResults(report, IDENTITY, 3, (0, 1)).add(lines(1, 1, 2))
    file = tmp_path / "report.partial.jsonl"
    file.write_text(file.read_text() + '{"index": 0, "val')  # stopped in the middle of a line
    again = PartialResults(report, IDENTITY, 3, (0, 1))
    assert again.done == {line["index"]: line for line in lines(1, 2)}
    again.add(lines(2, 0))
    assert [json.loads(line).get("index") for line in file.read_text().splitlines()] == [None, 1, 1, 2, 2, 0]
    assert again.gather() == lines(0, 1, 2)


def test_parts_of_another_evaluation_are_refused(tmp_path):
    report = tmp_path / "report.json"
    one = PartialResults(report, IDENTITY, 2, (0, 2))
    one.add(lines(0))
    PartialResults(report, {**IDENTITY, "model": "b"}, 2, (1, 2)).add(lines(1))
    with pytest.raises(ValueError, match="1-of-2.partial.jsonl is from an unfinished .* model 'b', this one has 'a'"):
        one.gather()
    with pytest.raises(ValueError, match="num_images 2, this one has 3"):
        PartialResults(report, IDENTITY, 3, (0, 2))


def test_many_missing_pictures_are_counted_and_several_processes_need_a_file(tmp_path):
    with pytest.raises(ValueError, match=r"50 of 100 pictures .*: 1, 3, 5, 7, 9, 11, 13, 15, \.\.\.; start .* 2 proc"):
        one = PartialResults(tmp_path / "report.json", IDENTITY, 100, (0, 2))
        one.add(lines(*one.own))
        one.gather()
    with pytest.raises(ValueError, match="4 processes share their results through files"):
        PartialResults(None, {}, 3, (0, 4))
