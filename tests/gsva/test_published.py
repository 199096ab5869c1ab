"""Published numbers: that each stands in the spec, and the table that has them beside ours."""

import re
from pathlib import Path

import pytest

from gsva_jax.evaluation.published import PUBLISHED, markdown_table

pytestmark = pytest.mark.quick

SPEC = Path(__file__).parent.parent.parent / "docs" / "spec" / "gsva.md"
REPORT = {
    "dataset": "grefcoco|unc|val",
    "protocol": "official",
    "blind": False,
    "question": "what",
    "num_images": 1500,
    "num_targets": 20000,
    "gIoU": 0.63471,
    "N_acc": None,
    "Pr@0.5": 0.5,
    "num_too_long": 0,
}


def section(letter: str) -> str:
    return re.search(rf"^## \({letter}\).*?(?=^## )", SPEC.read_text(), re.MULTILINE | re.DOTALL)[0]


def table(report: dict) -> tuple[str, list[list[str]]]:
    """The heading, and the cells of every row but the rule below the header."""
    title, blank, *rows = markdown_table(report).splitlines()
    assert blank == "" and set(rows[1]) <= set("|-: ")
    return title, [[cell.strip() for cell in row.strip("|").split("|")] for row in (rows[0], *rows[2:])]


def test_released_checkpoints_are_those_of_the_spec():
    found = {}
    for model, text in re.findall(r"^(gsva-7b\S*): (.*)$", section("j"), re.MULTILINE):
        for split, numbers in re.findall(r"(val|testA|testB) ([^;]+)", text):
            found[model, f"grefcoco|unc|{split}"] = [float(number) for number in re.findall(r"\d+\.\d+", numbers)]
    ours = {
        (row.model, row.dataset): [100 * row.metrics[name] for name in ("gIoU", "cIoU", "N_acc", "T_acc")]
        for row in PUBLISHED
        if row.model.startswith("gsva-7b")
    }
    assert ours.keys() == found.keys() and len(ours) == 6
    for key, numbers in found.items():
        assert ours[key] == pytest.approx(numbers)


def test_every_other_number_stands_in_the_supplementary():
    text = section("i").replace("gIoU 16.13 / cIoU 23.11 / N-acc 0", "tokens 16.13/23.11/0").replace(" vs", ",")
    rows = [row for row in PUBLISHED if not row.model.startswith("gsva-7b") and row.dataset != "png|val2017"]
    written = [tuple(map(float, group.split("/"))) for group in re.findall(r"\d+\.\d+(?:/\d+(?:\.\d+)?)*", text)]
    for row in rows:
        numbers = tuple(round(100 * value, 4) for value in row.metrics.values())
        assert numbers in written, row
        if "," in row.model:  # of several on one line, each after its name
            name = re.split(r"[ -]", row.model)[-1]
            (found,) = re.findall(rf"\b{name} (\d[\d./]+\d)", text)
            assert tuple(map(float, found.split("/"))) == numbers, row
    assert len(rows) == 16


def test_table_is_blank_where_nothing_was_published():
    title, (header, *rows) = table(REPORT)
    assert title == '## grefcoco|unc|val: 1500 pictures, 20000 targets, asked "what"'
    assert header[:4] == ["%", "ours (official)", "gsva-7b-pt (official)", "gsva-7b-ft-gres (official)"]
    assert [row[:4] for row in rows] == [
        ["gIoU", "63.47", "63.47", "66.43"],
        ["N_acc", "", "56.98", "62.56"],
        ["Pr@0.5", "50.00", "", ""],
    ]
    assert {len(row) for row in (header, *rows)} == {9} and "GSVA, What (official)" in header
    refcoco = {**REPORT, "dataset": "refcoco|unc|val"}
    assert table(refcoco)[1][:2] == [["%", "ours (official)"], ["gIoU", "63.47"]]


def test_lisa_on_narratives_is_from_the_paper_of_gella_which_does_not_say_its_protocol():
    report = {**REPORT, "dataset": "png|val2017", "AR": 0.25}
    del report["question"]
    assert table(report)[1][0] == ["%", "ours (official)", "LISA, one run a phrase"]
    (row,) = (row for row in PUBLISHED if row.dataset == "png|val2017")
    assert "Table 12b: LISA 43.6 AR on PNG" in (SPEC.parent / "gella.md").read_text() and row.metrics == {"AR": 0.436}


def test_rows_are_asked_in_the_same_way_and_of_the_same_pictures():
    assert table({**REPORT, "question": "show"})[1][0] == ["%", "ours (official)", "GSVA, Show (official)"]
    generated = {name: value for name, value in REPORT.items() if name != "question"}
    title, cells = table({**generated, "protocol": "generated", "blind": True})
    assert cells[0][1:3] == ["ours (generated, blind)", "gsva-7b-pt (official)"] and "asked" not in title
    scenes = {**REPORT, "num_targets[place]": 5, "gIoU[place]": 0.5}
    assert table(scenes)[1] == [["%", "ours (official)"], ["gIoU", "63.47"], ["N_acc", ""], ["Pr@0.5", "50.00"]]
