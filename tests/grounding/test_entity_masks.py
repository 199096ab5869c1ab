"""Masks of entities in every file that they come in, compared with the arrays that the files were written from."""

import json
import re
import shutil

import numpy as np
import pytest
from etils import epath
from PIL import Image

from grounding_jax.data.entity_masks import NoMasksError, open_mask_json, read_masks
from grounding_jax.files.id_maps import encode_id_map, open_id_map
from grounding_jax.files.regular import PackedFile
from tests.small_datasets import box_mask, compressed, corners, encodings, run_lengths
from tests.small_panoptic import SIZES, colours, write_panoptic_tree

pytestmark = pytest.mark.quick

SIZE = (12, 20)
BOXES = [(1, 1, 6, 5), (8, 2, 15, 11), (16, 0, 20, 9)]
MASKS = np.stack([box_mask(SIZE, box) for box in BOXES])
IDS = (2, 9, 250)
INDEXED = (MASKS * np.array(IDS)[:, None, None]).sum(0)
LARGE_IDS = (3, 700, 66_000)
OVERLAPPING = np.stack([box_mask(SIZE, box) for box in ((0, 0, 20, 12), (5, 5, 9, 9), (7, 3, 12, 8))])


def save(file, values, mode=None):
    picture = Image.fromarray(values)
    if mode == "P":
        picture.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    file.parent.mkdir(exist_ok=True)
    picture.save(file)
    return file


def write(file, content):
    file.write_text(json.dumps(content))
    return file


def rle(mask):
    return {"size": list(mask.shape), "counts": compressed(run_lengths(mask))}


def runs(mask):
    return {"size": list(mask.shape), "counts": run_lengths(mask)}


def sam(masks, encode):
    """What SAM's generator gives, as json."""
    return [
        {"segmentation": encode(mask), "area": int(mask.sum()), "bbox": [0, 0, 1, 1], "predicted_iou": 0.9 - i / 10}
        | {"stability_score": 0.99, "point_coords": [[1.5, 2.5]], "crop_box": [0, 0, 20, 12]}
        for i, mask in enumerate(masks)
    ]


def check(entities, masks, ids, names=None, scores=None, category_ids=None):
    assert entities.masks.dtype == bool
    np.testing.assert_array_equal(entities.masks, masks)
    assert entities.ids == tuple(ids) and entities.names == tuple(names or map(str, ids))
    assert entities.category_ids == category_ids
    if scores is None:
        assert entities.scores is None
    else:
        assert entities.scores.dtype == np.float32
        np.testing.assert_array_equal(entities.scores, np.float32(scores))


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_indexed_png(tmp_path, mode):
    large = mode == "I;16"
    values = (INDEXED * 200).astype(np.uint16) if large else INDEXED.astype(np.uint8)
    file = save(tmp_path / "a.png", values, mode)
    assert Image.open(file).mode == mode
    check(read_masks(file, SIZE), MASKS, [i * 200 if large else i for i in IDS])


def test_bitmap_png(tmp_path):
    check(read_masks(save(tmp_path / "a.PNG", MASKS[0])), MASKS[:1], [1])


def test_coloured_png_without_a_json(tmp_path):
    values = (MASKS * np.array(LARGE_IDS)[:, None, None]).sum(0)
    write(tmp_path / "a.json", sam(MASKS, rle))  # about something else, though it is called the same
    check(read_masks(save(tmp_path / "a.png", colours(values)), SIZE), MASKS, LARGE_IDS)


def test_id_maps_come_back():
    ids = np.random.default_rng(0).integers(0, 256**3, SIZE)
    ids[0, :2] = 0, 256**3 - 1
    file = PackedFile(epath.Path("a.png"), encode_id_map(ids))
    np.testing.assert_array_equal(open_id_map(file), ids)
    for wrong in (-1, 256**3):
        ids[3, 3] = wrong
        with pytest.raises(ValueError, match=r"must be in 0\.\.16777215, not in"):
            encode_id_map(ids)


def test_folder_is_in_natural_order(tmp_path):
    folder = tmp_path / "masks"
    for name, mask, value in (("m10", OVERLAPPING[2], 255), ("m2", OVERLAPPING[1], 1), ("M1", OVERLAPPING[0], 7)):
        save(folder / f"{name}.png", (mask * value).astype(np.uint8))
    save(folder / "m11.png", np.zeros((*SIZE, 3), np.uint8))  # empty masks are kept
    (folder / "metadata.csv").write_text("id,area\n")
    check(read_masks(folder, SIZE), [*OVERLAPPING, np.zeros(SIZE, bool)], range(4), ["M1", "m2", "m10", "m11"])


@pytest.mark.parametrize("encode", [rle, runs, np.ndarray.tolist])
@pytest.mark.parametrize("as_numbers", [False, True])
def test_sam(tmp_path, encode, as_numbers):
    content = sam(OVERLAPPING, lambda mask: encode(mask.astype(int) if as_numbers else mask))
    for size in (SIZE, None):
        check(read_masks(write(tmp_path / "a.json", content), size), OVERLAPPING, range(3), scores=[0.9, 0.8, 0.7])
    # The folder that SAM's script writes instead.
    for i, mask in enumerate(OVERLAPPING):
        save(tmp_path / "a" / f"{i}.png", (mask * 255).astype(np.uint8))
    check(read_masks(tmp_path / "a", SIZE), OVERLAPPING, range(3))


def test_sa_1b(tmp_path):
    annotations = [{**entry, "id": 500 + i} for i, entry in enumerate(sam(MASKS, rle))]
    image = {"image_id": 1, "width": 20, "height": 12, "file_name": "sa_1.jpg"}
    file = write(tmp_path / "sa_1.json", {"image": image, "annotations": annotations})
    for options in ({}, {"name": "x/sa_1.png"}, {"image_id": 1}):
        check(read_masks(file, SIZE, **options), MASKS, (500, 501, 502), scores=[0.9, 0.8, 0.7])
    with pytest.raises(ValueError, match=r"'.*sa_1\.json' has no picture 'b\.jpg'"):
        read_masks(file, SIZE, name="b.jpg")


def coco(images=(7, 12)):
    """Two pictures with polygons, run lengths and a crowd."""
    boxes = {7: BOXES, 12: [(2, 2, 9, 9)]}
    annotations = [
        {"id": 10 * image + i, "image_id": image, "category_id": 1 + i % 2, "segmentation": encodings(SIZE, box)[i]}
        for image in images
        for i, box in enumerate(boxes[image])
    ]
    crowd = {"id": 99, "image_id": 7, "category_id": 1, "segmentation": [np.ravel(corners(BOXES[0])).tolist()]}
    return {
        "images": [{"id": image, "file_name": f"d/{image:03}.jpg", "height": 12, "width": 20} for image in images],
        "annotations": [{**crowd, "iscrowd": 1}, *annotations],
        "categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "cow"}],
    }


def test_coco_json_of_several_pictures(tmp_path):
    file = write(tmp_path / "instances.json", coco())
    for options in ({"image_id": 7}, {"image_id": "7"}, {"name": "007.jpg"}, {"name": "z/007.png", "image_id": 7}):
        entities = read_masks(file, None, **options)
        check(entities, MASKS, (70, 71, 72), ["cat", "2", "cat"], category_ids=(1, 2, 1))
    assert read_masks(file, SIZE, image_id=12).ids == (120,)
    with pytest.raises(ValueError, match=r"instances\.json' is about 2 pictures: say by image_id or name"):
        read_masks(file, SIZE)
    with pytest.raises(ValueError, match=r"instances\.json' has no picture '8'"):
        read_masks(file, SIZE, image_id=8)
    with pytest.raises(ValueError, match=r"instances\.json' has no picture 'b\.jpg'"):
        read_masks(file, SIZE, image_id=7, name="b.jpg")  # numbers of another dataset may be other pictures
    file = write(tmp_path / "one.json", {**coco((7,)), "categories": []})
    check(read_masks(file), MASKS, (70, 71, 72), "121", category_ids=(1, 2, 1))


def test_coco_results(tmp_path):
    """A list that names no files: COCO's names have the number."""
    results = [
        {"image_id": image, "category_id": 5, "score": score, "segmentation": rle(mask)}
        for image, score, mask in ((139, 0.5, MASKS[0]), (285, 0.25, MASKS[1]), (139, 1, MASKS[2]))
    ]
    file = write(tmp_path / "results", results)  # no ending: it is recognised by what is in it
    for options in ({"image_id": 139}, {"name": "000000000139.jpg"}, {"name": "COCO_val2014_000000000139.jpg"}):
        entities = read_masks(file, SIZE, **options)
        check(entities, MASKS[[0, 2]], (0, 1), ("5", "5"), scores=[0.5, 1], category_ids=(5, 5))
    one = write(tmp_path / "one.json", results[1:2])
    assert len(read_masks(one, SIZE, name="dog.jpg").masks) == 1


@pytest.mark.parametrize("layout", ["panoptic_segmentation", "archive", "beside", "own"])
def test_panoptic(tmp_path, layout):
    cuts = write_panoptic_tree(tmp_path)
    folder = tmp_path / "coco" / "annotations"
    labels, file = folder / "panoptic_segmentation" / "val2017", folder / "panoptic_val2017.json"
    if layout == "archive":
        labels = labels.rename(folder / "panoptic_val2017")
    elif layout == "beside":
        for png in labels.iterdir():
            png.rename(folder / png.name)
        labels = folder
    elif layout == "own":  # one json for each PNG
        for annotation in json.loads(file.read_text())["annotations"]:
            write(labels / f"{annotation['file_name'][:-4]}.json", annotation)
        file.unlink()
    for image_id in (139, 285):
        cut = cuts[image_id]
        png, entities = labels / f"{image_id:012}.png", cut.entities
        expected = [cut.ids == segment["id"] for segment in entities]
        ids, category_ids = (tuple(segment[key] for segment in entities) for key in ("id", "category_id"))
        names = {1: "person", 18: "dog", 171: "wall-brick", 187: "sky-other-merged"}
        names = [str(number) if layout == "own" else names[number] for number in category_ids]
        json_file = png.with_suffix(".json") if layout == "own" else file
        sources = [(json_file, {"image_id": image_id}), (json_file, {"name": f"{image_id:012}.jpg"})]
        for source, options in sources if layout == "beside" else [(png, {}), *sources]:
            found = read_masks(source, SIZES[image_id], **options)
            check(found, expected, ids, names, category_ids=category_ids)
    with pytest.raises(ValueError, match="there is not one mask in"):
        read_masks(json_file.with_name("000000000632.json") if layout == "own" else file, image_id=632)


def test_panoptic_goldens(golden):
    folder = golden / "gella" / "metric_pq"
    content, crowds = json.loads((folder / "gt.json").read_text()), 0
    for annotation in content["annotations"]:
        pixels = np.array(Image.open(folder / "gt" / annotation["file_name"])).astype(int)
        ids = pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]
        kept = [segment for segment in annotation["segments_info"] if not segment["iscrowd"]]
        crowds += len(annotation["segments_info"]) - len(kept)
        names = [f"c{segment['category_id']}" for segment in kept]
        for source, options in (
            (folder / "gt.json", {"image_id": annotation["image_id"]}),
            (folder / "gt" / annotation["file_name"], {}),
        ):
            entities = read_masks(source, ids.shape, **options)
            numbers = [segment["id"] for segment in kept]
            categories = tuple(segment["category_id"] for segment in kept)
            check(entities, [ids == number for number in numbers], numbers, names, category_ids=categories)
            assert entities.masks.sum((1, 2)).tolist() == [segment["area"] for segment in kept]
    assert crowds > 1


def broken(tmp_path):
    """Files that can't be read, with what is said about them; {} is the file."""
    other = np.ones((9, 20), np.uint8)
    photograph = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    soft = np.arange(240, dtype=np.uint8).reshape(SIZE)
    unknown = "cannot read masks from '{}'; what can be read: a COCO panoptic PNG or its json, an indexed PNG, a folder"
    none, sizes = "there is not one mask in '{}'", "has 9 x 20 pixels, but the picture has 12 x 20"
    yield save(tmp_path / "jpeg.jpg", photograph), unknown
    yield tmp_path / "none.png", "there are no masks '{}'"
    for number, size in ((0, SIZE), (1, (9, 20))):
        yield save(tmp_path / f"{number}.png", np.full(size, number, np.uint8)), f"'{{}}' {sizes}" if number else none
    yield save(tmp_path / "alpha.png", np.zeros((*SIZE, 4), np.uint8)), "'{}': it has mode RGBA; it must be RGB"
    yield save(tmp_path / "f1" / "0.png", other).parent, f"'{{}}/0.png' {sizes}"
    yield save(tmp_path / "f2" / "0.png", soft).parent, "'{}/0.png' is not a binary mask: it has several values"
    (tmp_path / "f3").mkdir()
    yield tmp_path / "f3", f"{none}: it has no PNG"
    cut = tmp_path / "cut.png"
    cut.write_bytes(save(tmp_path / "whole.png", photograph).read_bytes()[:3000])
    yield cut, "cannot read the PNG of segments '{}': image file is truncated"
    for name, text, problem in (
        ("a.txt", "masks", unknown),
        ("text.png", "masks", "cannot read the PNG of segments '{}': it is not a format that is read here (PNG)"),
        ("text.json", "[{", "{} is not valid JSON"),
    ):
        (tmp_path / name).write_text(text)
        yield tmp_path / name, problem
    polygon = {"segmentation": [[1, 1, 5, 1, 5, 5]]}
    image = {"id": 1, "height": 9, "width": 20}
    for number, (content, problem) in enumerate(
        [
            ({"shapes": []}, unknown),
            ([{"bbox": [1, 2, 3, 4]}], unknown),
            (7, unknown),
            ([], none),
            ({"annotations": []}, none),
            (sam([other], rle), f"mask 0 in '{{}}' {sizes}"),
            (sam([MASKS[0], other], np.ndarray.tolist), f"mask 1 in '{{}}' {sizes}"),
            ({"images": [image], "annotations": [polygon]}, f"'{{}}' {sizes}"),
            ([{"segmentation": None}], "{} at $.annotations[0].segmentation: expected `object | array`, got `null`"),
            (
                [{"segmentation": {"counts": [240]}}],
                "{} at $.annotations[0].segmentation: object missing required",
            ),
            ([{"segmentation": [[True, False], [True]]}], "mask 0 in '{}' has 2 x 2 pixels"),
            ([{**polygon, "score": 1}, polygon], "'{}' has masks with 'score' and masks without"),
            ([{**polygon, "id": 4}] * 2, "'{}' has several masks with the id 4"),
            ({"annotations": [polygon], "images": 3}, "{} at $.images: expected `array | null`, got `int`"),
            ({"annotations": [polygon], "categories": [1]}, "{} at $.categories[0]: expected `object`, got `int`"),
            ({"segments_info": [{"id": 1}]}, "the PNG that belongs to '{}' is missing: "),
        ]
    ):
        yield write(tmp_path / f"content{number}.json", content), problem


def test_errors_are_one_clear_line(tmp_path):
    for file, problem in broken(tmp_path):
        with pytest.raises((FileNotFoundError, ValueError)) as caught:
            read_masks(file, SIZE)
        assert problem.replace("{}", str(file)) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_photograph_is_not_taken_for_masks(tmp_path):
    photograph = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="is a picture, not masks: its 6[0-9]{3} colours change from pixel to pixel"):
        read_masks(save(tmp_path / "a.png", photograph))
    smooth = np.random.default_rng(0).integers(-9, 10, (40, 50)).cumsum(1) + 128
    for mode in ("L", "P"):  # grey, or with a palette
        with pytest.raises(ValueError, match="is a picture, not masks: its [0-9]{2,3} colours change from pixel"):
            read_masks(save(tmp_path / "b.png", smooth.clip(0, 255).astype(np.uint8), mode))
    superpixels = np.kron(np.arange(1, 241, dtype=np.uint8).reshape(12, 20), np.ones((4, 4), np.uint8))
    assert len(read_masks(save(tmp_path / "c.png", superpixels)).ids) == 240


def test_a_json_of_many_pictures_is_read_once(tmp_path):
    """By number and by name, as `read_masks` does every time."""
    names = {7: "a/COCO_train2014_000000000007.jpg", 8: "b.jpg", 9: "c.jpg"}
    images = [{"id": number, "file_name": name, "height": 12, "width": 20} for number, name in names.items()]
    found = [{"image_id": number, "id": 1, "segmentation": rle(MASKS[number - 7])} for number in (7, 8)]
    opened = open_mask_json(write(tmp_path / "all.json", {"images": images, "annotations": found[::-1]}))
    (tmp_path / "all.json").unlink()
    for number, name in ((7, "000000000007.png"), (7, "COCO_val2014_000000000007.jpg"), (8, "elsewhere/b.png")):
        np.testing.assert_array_equal(opened.read(SIZE, name=name).masks, MASKS[[number - 7]])
        np.testing.assert_array_equal(opened.read(SIZE, image_id=number).masks, MASKS[[number - 7]])
    assert opened.read(SIZE, image_id=9).masks.shape == (0, *SIZE)
    with pytest.raises(ValueError, match=r"all\.json' has no picture 'd\.jpg'"):
        opened.read(SIZE, name="d.jpg")
    results = open_mask_json(write(tmp_path / "results.json", found))
    assert results.read(SIZE, image_id="8").ids == results.read(SIZE, name="COCO_0008.png").ids == (1,)
    with pytest.raises(NoMasksError, match="has no picture '9'"):
        results.read(SIZE, image_id=9, name="9.jpg")


def test_polygons_need_a_size(tmp_path):
    file = write(tmp_path / "a.json", [{"segmentation": [[1, 1, 6, 1, 6, 5, 1, 5]]}, {"segmentation": rle(MASKS[1])}])
    check(read_masks(file, SIZE), MASKS[:2], range(2))
    with pytest.raises(ValueError, match=r"mask 0 in '.*a\.json' does not tell its size, as polygons don't"):
        read_masks(file)


def test_png_and_json_must_belong_together(tmp_path):
    write_panoptic_tree(tmp_path)
    folder = tmp_path / "coco" / "annotations"
    file, png = folder / "panoptic_val2017.json", folder / "panoptic_segmentation" / "val2017" / "000000000285.png"
    content = json.loads(file.read_text())
    segments = content["annotations"][2]["segments_info"]
    left = segments.pop()
    write(file, content)
    for source in (file, png):
        with pytest.raises(ValueError, match=rf"285\.png has the segment {left['id']}, which .*val2017\.json lacks"):
            read_masks(source, image_id=285)
    segments += [left, {**left, "id": 4}]
    write(file, content)
    with pytest.raises(ValueError, match=r"val2017\.json has the segment 4, of which .*285\.png has no pixel"):
        read_masks(png)
    shutil.copy(png, png.with_name("1.png"))
    with pytest.raises(ValueError, match=r"val2017\.json should have '1\.png' once, but has it 0 times"):
        read_masks(png.with_name("1.png"))
    del segments[0]["id"]
    write(file, content)
    with pytest.raises(ValueError, match=r"is not COCO's panoptic json: a segment of '000000000285\.png' has no 'id'"):
        read_masks(png)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"id": [0]}, "id: expected `int | null`, got `array`"),
        ({"category_id": {"a": 1}}, "category_id: expected `int | null`, got `object`"),
        ({"score": "high"}, "score: expected `float | null`, got `str`"),
    ],
)
def test_damaged_entries_are_named(tmp_path, entry, message):
    file = write(tmp_path / "masks.json", [{"segmentation": encodings(SIZE, BOXES[0])[1], **entry}])
    with pytest.raises(ValueError, match=re.escape(f"masks.json at $.annotations[0].{message}")):
        read_masks(file, SIZE)


def test_names_of_coco_of_any_year(tmp_path):
    images = [{"id": 3, "file_name": "000000000139.jpg", "height": "12", "width": 20}]
    mask = {"image_id": 3, "segmentation": encodings(SIZE, BOXES[0])[1]}
    file = write(tmp_path / "all.json", {"images": images, "annotations": [mask]})
    assert len(read_masks(file, SIZE, name="COCO_train2014_000000000139.jpg").ids) == 1


def test_results_without_a_picture_have_no_masks_of_it(tmp_path):
    file = write(tmp_path / "results.json", [{"image_id": 5, "segmentation": encodings(SIZE, BOXES[0])[1]}])
    assert len(read_masks(file, SIZE, image_id=5, name="a.jpg").ids) == 1
    with pytest.raises(NoMasksError, match="has no picture '6'"):
        read_masks(file, SIZE, image_id=6, name="a.jpg")
