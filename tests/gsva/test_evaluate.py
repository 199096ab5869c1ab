"""Evaluation against the release's numbers (golden/gsva), its three protocols, and going on after an interruption."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pycocotools import mask as coco

import gsva_jax
from grounding_jax.data.datasets import open_dataset
from grounding_jax.evaluation.run import PROTOCOLS
from grounding_jax.files.pictures import open_picture
from grounding_jax.inference import generation
from grounding_jax.inference.generation import Generation
from grounding_jax.models.llava import IMAGE_TOKEN
from gsva_jax import config, engine, steps
from gsva_jax.evaluation import protocols, tasks
from gsva_jax.evaluation.protocols import Prediction, prepare, teacher_force
from gsva_jax.evaluation.run import evaluate

DATASETS = {
    "grefcoco_val": "grefcoco|unc|val",
    "refcoco_val": "refcoco|unc|val",
    "refzom_test": "refzom|final|test",
    "reasonseg_val": "ReasonSeg|val",
}
GREFCOCO = DATASETS["grefcoco_val"]
SCENES = config.ASSETS / "scenes"


@pytest.fixture(scope="module")
def source(gsva_golden):
    return gsva_golden


@pytest.fixture(scope="module")
def gsva(golden_model) -> gsva_jax.Gsva:
    return gsva_jax.load(golden_model)


@pytest.fixture
def lisa(gsva) -> gsva_jax.Gsva:
    """The same weights without a [REJ]."""
    words = dataclasses.replace(gsva.engine.tokenizer, rej=None)
    return gsva_jax.Gsva(dataclasses.replace(gsva.engine, tokenizer=words))


@pytest.mark.parametrize("name", DATASETS)
def test_official_metrics_are_those_of_the_release(gsva, source, tmp_path, name):
    expected = json.loads((source / "meta.json").read_text())["metrics"][name]
    out = tmp_path / "new folder" / "report.json"
    report = evaluate(gsva, source / "data", DATASETS[name], "official", out, batch_size=2)
    assert {key: report[key] for key in expected} == pytest.approx(expected, abs=2e-3)
    assert (report["dataset"], report["protocol"]) == (DATASETS[name], "official")
    items = json.loads((source / "meta.json").read_text())[name]
    assert (report["num_images"], report["num_targets"]) == (len(items), sum(item["n_targets"] for item in items))
    assert json.loads(out.read_text()) == report and list(out.parent.iterdir()) == [out]


def test_ignored_pixels_are_left_out_but_in_the_official_protocol(gsva, source, tmp_path):
    official = evaluate(gsva, source / "data", "ReasonSeg|val", "official", batch_size=2)
    assert official["lisa_gIoU"] != official["gIoU"] and official["lisa_cIoU"] != official["cIoU"]
    records = open_dataset(source / "data", "ReasonSeg|val")
    areas = [int((record.masks[0] & ~record.ignore).sum()) for record in records]
    assert any(record.ignore.any() for record in records)
    out = tmp_path / "predictions.jsonl"
    guided = evaluate(gsva, source / "data", "ReasonSeg|val", "guided", predictions=out, batch_size=2)
    assert "lisa_gIoU" not in guided
    assert [json.loads(line)["target_area"] for line in out.read_text().splitlines()] == areas


@pytest.mark.parametrize("name", DATASETS)
def test_official_items_are_those_of_the_release(gsva, source, name):
    records = open_dataset(source / "data", DATASETS[name])
    with_absent = name in ("grefcoco_val", "refzom_test")
    for start in range(0, len(records), 2):
        numbers = [start, min(start + 1, len(records) - 1)]
        requests = [prepare(gsva.engine, "official", records[i]) for i in numbers]
        items = [dict(np.load(source / f"eval_{name}_{i}.npz")) for i in numbers]
        most = max(request.num_targets for request in requests)
        row = gsva.engine.batcher.pack([request.texts for request in requests], most)
        image, patches = engine.encode_image(gsva.engine, [open_picture(records[i].image) for i in numbers])
        forced = teacher_force(gsva.engine, row, patches, second_pass=with_absent)
        low = steps.decode_masks(gsva.engine.config, gsva.engine.params, forced.hidden, image)
        once = teacher_force(gsva.engine, row, patches, second_pass=False)
        low_once = steps.decode_masks(gsva.engine.config, gsva.engine.params, once.hidden, image)
        for b, (request, item) in enumerate(zip(requests, items, strict=True)):
            n = request.num_targets
            ids = np.repeat(item["input_ids"][0], np.where(item["input_ids"][0] == IMAGE_TOKEN, 16, 1))
            np.testing.assert_array_equal(row["ids"][b, : len(ids)], ids)
            np.testing.assert_array_equal(request.record.masks | _ignored(request.record), item["gt_masks_0"] > 0)
            slots = row["seg_positions"][b, :n]
            np.testing.assert_array_equal(forced.argmax[b, :n], item["out/argmax_first_pass"][0, slots])
            np.testing.assert_array_equal(forced.rejected[b, :n], item["out/output_ids"][slots + 1] == 421)
            np.testing.assert_allclose(low[b, :n], item["out/low_res_masks"][:, 0], rtol=0, atol=1e-3)
            if "out_noreeval/output_ids" in item:
                kept = ~request.record.rejected
                np.testing.assert_array_equal(once.rejected[b, :n], item["out_noreeval/output_ids"][slots + 1] == 421)
                masks = np.asarray(low_once[b, :n])[kept]
                np.testing.assert_allclose(masks, item["out_noreeval/low_res_masks"][:, 0], rtol=0, atol=1e-3)


def _ignored(record) -> np.ndarray:
    return np.zeros(record.size, bool) if record.ignore is None else record.ignore


def test_reading_again_may_reach_back_into_the_picture(gsva, source):
    record = open_dataset(source / "data", GREFCOCO)[2]
    row = gsva.engine.batcher.pack([prepare(gsva.engine, "official", record).texts] * 2, len(record.expressions))
    _, patches = engine.encode_image(gsva.engine, [open_picture(record.image)] * 2)
    expected = steps.prefill(gsva.engine.config, gsva.engine.params, row, patches)
    other = {**row, "ids": np.where(row["ids"] == gsva.engine.tokenizer.rej, gsva.engine.tokenizer.seg[0], row["ids"])}
    reading = steps.prefill(gsva.engine.config, gsva.engine.params, other, patches)
    inside = int(np.argmax(row["ids"][0] == IMAGE_TOKEN)) + 5
    window = row["ids"].shape[1] - inside
    reading = steps.prefill_window(gsva.engine.config, gsva.engine.params, row, patches, reading, inside, window)
    np.testing.assert_allclose(reading.hidden, expected.hidden, atol=2e-4)


def test_a_third_token_counts_as_the_wrong_decision(gsva, lisa):
    seg, rej = gsva.engine.tokenizer.seg[0], gsva.engine.tokenizer.rej
    argmax, truth = np.array([seg, rej, 7, seg, rej, 7]), np.array([False, False, False, True, True, True])
    decided = protocols.official_decisions(gsva.engine.tokenizer, argmax, truth)
    np.testing.assert_array_equal(decided, [False, True, True, False, True, False])
    assert not protocols.official_decisions(lisa.engine.tokenizer, argmax, truth).any()


def test_an_interrupted_evaluation_goes_on(gsva, source, tmp_path, monkeypatch):
    out, listed, partial = (tmp_path / name for name in ("a.json", "a.jsonl", "a.partial.jsonl"))
    answered = []

    predict = protocols.predict

    def counted(gsva, protocol, requests, pictures, with_absent):
        if len(answered) == 2 and stopping:
            raise KeyboardInterrupt
        answered.extend(request.record.image_id for request in requests)
        return predict(gsva, protocol, requests, pictures, with_absent)

    monkeypatch.setattr(protocols, "predict", counted)
    arguments = (gsva, source / "data", GREFCOCO, "official", out, listed)
    stopping = True
    with pytest.raises(KeyboardInterrupt):
        evaluate(*arguments, batch_size=2)
    assert not out.exists() and len(partial.read_text().splitlines()) == 3
    with pytest.raises(ValueError, match="unfinished evaluation with protocol 'official', this one has 'guided'"):
        evaluate(gsva, source / "data", GREFCOCO, "guided", out, listed)
    partial.write_text(partial.read_text() + '{"index": 2, "outc')  # stopped in the middle of a line
    stopping = False
    report = evaluate(*arguments, batch_size=2)
    records = open_dataset(source / "data", GREFCOCO)
    assert sorted(answered) == [record.image_id for record in records] and not partial.exists()
    expected = json.loads((source / "meta.json").read_text())["metrics"]["grefcoco_val"]
    assert {key: report[key] for key in expected} == pytest.approx(expected, abs=2e-3)

    lines = [json.loads(line) for line in listed.read_text().splitlines()]
    assert [line["expression"] for line in lines] == [text for record in records for text in record.expressions]
    truth = np.load(source / "eval_grefcoco_val_0.npz")
    mask = coco.decode(lines[0]["segmentation"]).astype(bool)
    assert np.mean(mask != (truth["out/pred_masks"][0] >= 0)) < 1e-3
    assert lines[0]["area"] == mask.sum() and 0 <= lines[0]["score"] <= 1
    assert lines[0]["target_area"] == truth["gt_masks_0"][0].sum()


@pytest.mark.parametrize("changed", ["instances.json", "grefs(unc).json", "picture", "weights"])
def test_an_interrupted_evaluation_of_something_else_is_not_gone_on_with(gsva, source, tmp_path, monkeypatch, changed):
    """As gIoU .392 for .785 once came out: one half of the answers were about masks that had changed since."""
    data, out = tmp_path / "data", tmp_path / "report.json"
    shutil.copytree(source / "data", data)
    monkeypatch.setattr(protocols, "predict", perfect([], stop_after=2))
    with pytest.raises(KeyboardInterrupt):
        evaluate(gsva, data, GREFCOCO, "guided", out, batch_size=1)
    monkeypatch.setattr(protocols, "predict", perfect([]))
    if changed == "weights":
        params = jax.tree.map(lambda leaf: leaf, gsva.engine.params)
        params["llama"]["embed"]["embedding"] = params["llama"]["embed"]["embedding"].at[-1, -1].add(1)
        gsva = gsva_jax.Gsva(dataclasses.replace(gsva.engine, params=params))
    elif changed == "picture":
        picture = open_dataset(data, GREFCOCO)[0].image
        picture.write_bytes(picture.read_bytes() + b"another end")
    else:
        file = data / "refer_seg" / "grefcoco" / changed
        before = file.read_text()
        file.write_text(re.sub(r"(\d)\.\d+", r"\g<1>.0", before) if changed == "instances.json" else before.lower())
        assert file.read_text() != before
    what = "model" if changed == "weights" else "records"
    with pytest.raises(ValueError, match=f"unfinished evaluation with {what} '.*', this one has '.*delete the file"):
        evaluate(gsva, data, GREFCOCO, "guided", out)
    out.with_suffix(".partial.jsonl").unlink()
    assert evaluate(gsva, data, GREFCOCO, "guided", out)["gIoU"] == pytest.approx(1, abs=1e-4)


def always_writes(text: str, tokenizer):
    """A stand-in for `generation.generate` that gives every question the same answer."""

    def generate(config, params, row, patches, keys, max_new, eos, temperature, mesh):
        ids = tokenizer.encode(text)
        ids = np.tile([*ids, *[eos] * (max_new - len(ids))], (len(row["ids"]), 1))
        return Generation(jnp.asarray(ids), jnp.zeros((*ids.shape, config.width)), None)

    return generate


def test_guided_is_what_segment_answers(gsva, source, tmp_path):
    listed = tmp_path / "predictions.jsonl"
    report = evaluate(gsva, source / "data", GREFCOCO, "guided", predictions=listed, batch_size=2)
    assert report["protocol"] == "guided" and "num_missing" not in report
    lines = [json.loads(line) for line in listed.read_text().splitlines()]
    records = [record for record in open_dataset(source / "data", GREFCOCO) if len(record.expressions) > 1]
    answers = gsva.segment_many([(open_picture(record.image), record.expressions) for record in records])
    for record, answer in zip(records, answers, strict=True):
        ours = [line for line in lines if line["image_id"] == record.image_id]
        assert [line["rejected"] for line in ours] == [target.rejected for target in answer.targets]
        for line, target in zip(ours, answer.targets, strict=True):
            assert abs(line["score"] - target.score) < 1e-4
            assert abs(line["area"] - target.mask.sum()) <= 1e-3 * target.mask.size
            assert not (line["rejected"] and line["area"])


def test_generated_answers_are_read_in_order(gsva, source, tmp_path, monkeypatch):
    report = evaluate(gsva, source / "data", GREFCOCO, "generated", batch_size=2)
    assert report["protocol"] == "generated" and {"gIoU", "cIoU", "N_acc", "T_acc"} <= report.keys()
    assert report["num_surplus"] > 0  # random weights do not end their answers
    monkeypatch.setattr(generation, "generate", always_writes("Sure, a:[SEG], b:[REJ].", gsva.engine.tokenizer))
    listed = tmp_path / "predictions.jsonl"
    report = evaluate(gsva, source / "data", GREFCOCO, "generated", predictions=listed, batch_size=2)
    # 5, 1, 6 and 1 expressions, but two decisions each.
    assert (report["num_missing"], report["num_surplus"]) == (3 + 4, 1 + 1)
    lines = [json.loads(line) for line in listed.read_text().splitlines()]
    decisions = [(line["rejected"], line["missing"]) for line in lines]
    said = [(False, False), (True, False)]
    assert decisions == said + [(False, True)] * 3 + said[:1] + said + [(False, True)] * 4 + said[:1]
    assert all(line["area"] == 0 for line in lines if line["missing"] or line["rejected"])
    assert lines[0]["answer"] == "Sure, a:[SEG], b:[REJ]."
    present = sum((~record.rejected).sum() for record in open_dataset(source / "data", GREFCOCO))
    assert report["T_acc"] == pytest.approx(3 / present)


def test_a_model_without_rejection_answers_one_target_a_conversation(lisa, source, monkeypatch):
    monkeypatch.setattr(generation, "generate", always_writes("Sure, it is [SEG].", lisa.engine.tokenizer))
    for protocol in PROTOCOLS:
        report = evaluate(lisa, source / "data", DATASETS["refzom_test"], protocol, batch_size=2)
        assert (report["N_acc"], report["T_acc"]) == (0, 1)
    assert report["num_missing"] == report["num_surplus"] == 0


def test_instructions_keep_their_words_and_long_texts_are_counted(gsva, source):
    record = open_dataset(source / "data", "ReasonSeg|val")[0]  # a whole sentence
    request = prepare(gsva.engine, "guided", record)
    text = gsva.engine.tokenizer.decode(request.texts[0].ids)
    assert "woman ? Please output segmentation mask. ASSISTANT: Sure, it is [SEG]." in text and not request.too_long
    config = dataclasses.replace(gsva.engine.config, model_max_length=100)
    short = gsva_jax.Gsva(dataclasses.replace(gsva.engine, config=config))
    assert all(prepare(short.engine, protocol, record).too_long for protocol in PROTOCOLS)


def test_numbers_by_kind_of_expression(gsva, monkeypatch):
    """A perfect answer, except that objects found by size are missed, and shown grey pictures throughout."""

    def answer(gsva, protocol, requests, pictures, with_absent):
        assert all((picture == 128).all() for picture in pictures)
        predictions = []
        for request in requests:
            record, n = request.record, request.num_targets
            by_size = np.array([family == "size" for family in record.families])
            masks = record.masks & ~by_size[:, None, None]
            predictions.append(Prediction(masks, record.rejected, np.zeros(n, bool), np.ones(n)))
        return predictions

    monkeypatch.setattr(protocols, "predict", answer)
    report = evaluate(gsva, SCENES, "grefcoco|unc|testA", "guided", blind=True)
    assert report["blind"] and report["N_acc[absent]"] == report["N_acc"] == report["T_acc"] == 1
    assert report["Pr@0.5[size]"] == report["gIoU[size]"] == 0
    assert report["Pr@0.5[place]"] == 1 and report["gIoU[place]"] == pytest.approx(1, abs=1e-4)
    assert "N_acc[place]" not in report and "gIoU[None]" not in report
    kinds = ("name", "all", "place", "size", "absent")
    assert sum(report[f"num_targets[{kind}]"] for kind in kinds) == report["num_targets"]
    assert all(isinstance(value, str | bool | int | float) for value in report.values())


def perfect(asked: list[int], stop_after: int | None = None):
    """A stand-in for `protocols.predict` that knows the answers, and lists the pictures it was asked about."""

    def answer(gsva, protocol, requests, pictures, with_absent):
        if len(asked) == stop_after:
            raise KeyboardInterrupt
        asked.extend(request.record.image_id for request in requests)
        nothing = [np.zeros(request.num_targets, bool) for request in requests]
        truth = [(request.record.masks, request.record.rejected) for request in requests]
        return [Prediction(*pair, no, 1.0 - pair[1]) for pair, no in zip(truth, nothing, strict=True)]

    return answer


def test_several_processes_count_every_picture_once(gsva, tmp_path, monkeypatch):
    asked, out, listed = [], tmp_path / "report.json", tmp_path / "predictions.jsonl"
    monkeypatch.setattr(protocols, "predict", perfect(asked))
    arguments = (gsva, SCENES, "grefcoco|unc|testA", "guided")
    alone = evaluate(*arguments, batch_size=4)
    everything = [record.image_id for record in open_dataset(SCENES, "grefcoco|unc|testA")]
    assert sorted(asked) == everything and len(everything) == 12 and alone["gIoU"] == pytest.approx(1, abs=1e-4)

    asked.clear()
    for index in (0, 2):
        with pytest.raises(ValueError, match="pictures are in no file beside .*: 1, "):
            evaluate(*arguments, out, listed, batch_size=2, process=(index, 3))
    reports = [evaluate(*arguments, out, listed, batch_size=2, process=(index, 3)) for index in (1, 2)]
    assert not out.exists() and not listed.exists()  # they are the first one's to write
    reports.append(evaluate(*arguments, out, listed, batch_size=2, process=(0, 3)))
    assert sorted(asked) == everything and reports == [alone] * 3
    assert json.loads(out.read_text()) == alone and {*tmp_path.iterdir()} == {out, listed}
    assert len(listed.read_text().splitlines()) == alone["num_targets"]


def test_forms_of_the_question(gsva, lisa, source, tmp_path, monkeypatch):
    record = open_dataset(source / "data", GREFCOCO)[1]
    (name,) = record.expressions
    forms = {
        "what": f"What are {name}in this image? Please output segmentation masks.",
        "where": f"Where are {name}in this image? Please output segmentation masks.",
        "show": f"Show me {name} in the image with segmentation masks",
        "outline": f"Outline {name} in this image with segmentation masks",
    }
    for question, words in forms.items():
        (text,) = prepare(gsva.engine, "official", record, question).texts
        answer = f"Sure,{name}:{'[REJ]' if record.rejected[0] else '[SEG]'}."
        expected = gsva.engine.batcher.encode([[(f"<image>\n {words}", answer)]])
        np.testing.assert_array_equal(text.ids, expected[0].ids)
    assert len({*forms.values()}) == 4

    monkeypatch.setattr(protocols, "predict", perfect([]))
    out, table = tmp_path / "report.json", tmp_path / "table.md"
    report = evaluate(gsva, source / "data", GREFCOCO, "official", out, markdown=table, question="where")
    assert report["question"] == "where" and "GSVA, Where (official)" in table.read_text()
    assert "| gIoU | 100.00 | 63.43 |" in table.read_text()
    assert "question" not in evaluate(gsva, source / "data", GREFCOCO, "guided")
    monkeypatch.setattr(protocols, "predict", None)  # interrupted at once
    with pytest.raises(TypeError):
        evaluate(gsva, source / "data", GREFCOCO, "official", out, question="where")
    with pytest.raises(ValueError, match="unfinished evaluation with question 'where', this one has 'show'"):
        evaluate(gsva, source / "data", GREFCOCO, "official", out, question="show")
    with pytest.raises(ValueError, match="'grefcoco|unc|val' in the protocol 'guided' has only 'what'"):
        evaluate(gsva, source / "data", GREFCOCO, "guided", question="show")
    with pytest.raises(ValueError, match="asked for one target at a time, not for a list in form 'show'"):
        evaluate(lisa, source / "data", GREFCOCO, "official", question="show")


def test_clear_errors(gsva, source):
    with pytest.raises(ValueError, match="'coco' can't be evaluated; the datasets that can are grefcoco|unc|"):
        evaluate(gsva, source / "data", "coco", "official")
    with pytest.raises(ValueError, match="has no protocol 'free'; there are official, guided, generated"):
        evaluate(gsva, source / "data", GREFCOCO, "free")
    with pytest.raises(ValueError, match="unknown question 'why'; there are what, where, show, outline"):
        evaluate(gsva, source / "data", GREFCOCO, "official", question="why")
    record = dataclasses.replace(open_dataset(source / "data", GREFCOCO)[0], size=(10, 20))
    with pytest.raises(ValueError, match="has 96 x 140 pixels, but its annotation is for 10 x 20"):
        tasks._picture(record, blind=False)
