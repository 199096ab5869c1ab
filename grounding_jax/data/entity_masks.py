"""Anybody's masks of the entities in a picture: whatever segmented it, in any of the usual files (spec gella d)."""

from __future__ import annotations

import functools
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Required, TypedDict

import numpy as np
from etils import epath

from grounding_jax.data.coco import Number
from grounding_jax.files import masks, records, regular
from grounding_jax.files.id_maps import VOID, check_segments, label_folders, open_id_map, segment_files
from grounding_jax.files.masks import RunLengths

_KNOWN = (
    "a COCO panoptic PNG or its json, an indexed PNG, a folder of binary PNGs, a json of COCO run lengths or polygons, "
    "the json of SAM's automatic masks"
)
_PNG = b"\x89PNG\r\n\x1a\n"
_NUMBERED = re.compile(r"(?<!\d)\d{12}$")  # how COCO's names end, whichever year's they are
# No segmentation has as many segments, but a photograph taken for one has more colours, or a palette of some of them
# that change from pixel to pixel.
_MOST_SEGMENTS, _FEW_SEGMENTS = 4096, 64
_MOST_PIXELS = 1 << 33  # of all masks of a picture together, each a byte
TRUE_MASKS = "truth"  # how commands, configs and reports call the masks of a dataset itself

Size = tuple[int, int]


class _Picture(TypedDict, total=False):
    """An entry of "images"; SAM calls the number "image_id"."""

    id: int | str
    image_id: int | str
    file_name: str
    height: Number
    width: Number


class _Category(TypedDict):
    id: int
    name: str


class _Entry(TypedDict, total=False):
    """An entry of "annotations": a mask, or the segments of a PNG; or one of these segments."""

    id: int | None
    image_id: int | str
    category_id: int | None
    iscrowd: int | None
    score: float | None
    predicted_iou: float | None
    segmentation: list[list[float | bool] | RunLengths] | RunLengths
    segments_info: list[_Entry]
    file_name: str


class _Content(TypedDict, total=False):
    """A json of COCO, of results, or of SAM."""

    annotations: Required[list[_Entry]]
    categories: list[_Category] | None
    images: list[_Picture] | None
    image: _Picture


class NoMasksError(ValueError):
    """A source of masks that has none for a picture."""


class Entities(NamedTuple):
    """The masks of one picture; they may overlap, be empty, and leave some of it out.

    Attributes:
        masks: bool [M, H, W].
        ids: the number that each has in its file; its place, from 0, where the file has no numbers.
        names: the category of each, or its file's name in a folder; its number where nothing is known.
        scores: float32 [M]: the confidence, for SAM its predicted IoU; None if the file has none.
        category_ids: the file's number of each category; None if it has no categories.
        crowds: number of masks of the file that are left out because they are of crowds.
    """

    masks: np.ndarray
    ids: tuple[int, ...]
    names: tuple[str, ...]
    scores: np.ndarray | None = None
    category_ids: tuple[int, ...] | None = None
    crowds: int = 0


MaskReader = Callable[[Size, int | str | None, str], Entities]  # of (size, image_id, name)


class MaskJson:
    """A json of the masks of one picture or of many, each of which is found at once; see `open_mask_json`.

    Attributes:
        file: the file.
        content: annotations, pictures and categories of the file.
    """

    def __init__(self, file: epath.Path, content: _Content):
        self.file, self.content = file, content

    def read(self, size: Size | None = None, image_id: int | str | None = None, name: str | None = None) -> Entities:
        """The masks of one picture; arguments and errors as of `read_masks`, but there may be none."""
        file, content = self.file, self.content
        image, entries = self._of_picture(image_id, name)
        if "height" in image and "width" in image:
            own = int(image["height"]), int(image["width"])
            _check_size(f"'{file}'", own, size)
            size = own
        names = _category_names(content)
        if _is_panoptic(content) and entries:
            png_name = epath.Path(entries[0].get("file_name", f"{file.stem}.png")).name
            places = [folder / png_name for folder in label_folders(file)]
            png = next((place for place in places if place.exists()), None)
            if png is None:
                raise FileNotFoundError(f"the PNG that belongs to '{file}' is missing: {' or '.join(map(str, places))}")
            return _read_segments(png, size, entries[0]["segments_info"], names, file)
        own_entries = [entry for entry in entries if not entry.get("iscrowd")]
        found: list[np.ndarray] = []
        for place, entry in enumerate(own_entries):
            found.append(_decode(entry["segmentation"], size, f"mask {place} in '{file}'"))
            size = found[0].shape
            _check_memory(len(own_entries), size, f"'{file}'")
        masks = np.array(found, bool) if found else np.zeros((0, *(size or (0, 0))), bool)
        entities = label_entities(masks, own_entries, names, f"'{file}'")
        return entities._replace(crowds=len(entries) - len(own_entries))

    @functools.cached_property
    def _listed(self) -> dict[str, _Picture]:
        """The pictures that it lists, by their numbers, which may be texts. SAM's json does not tell its number."""
        images = self.content.get("images") or ([self.content["image"]] if "image" in self.content else [])
        return {str(image.get("id", image.get("image_id"))): image for image in images}

    @functools.cached_property
    def _entries(self) -> dict[str, list[_Entry]]:
        """The annotations of each picture."""
        alone = next(iter(self._listed)) if len(self._listed) == 1 else ""
        entries: dict[str, list[_Entry]] = {}
        for annotation in self.content["annotations"]:
            entries.setdefault(str(annotation.get("image_id", alone)), []).append(annotation)
        return entries

    @functools.cached_property
    def _pictures(self) -> dict[str, _Picture]:
        """All pictures that it knows anything of."""
        return {**dict.fromkeys(self._entries, _Picture()), **self._listed}

    @functools.cached_property
    def _called(self) -> dict[str, list[str]]:
        """The numbers of pictures by what they are called: the stem of a file's name, and the number in it."""
        called: dict[str, list[str]] = {}
        for number, image in self._pictures.items():
            stem = epath.Path(image["file_name"]).stem if "file_name" in image else None
            for key in {f"number {number}"} if stem is None else {stem, *_NUMBERED.findall(stem)}:
                called.setdefault(key, []).append(number)
        return called

    def _of_picture(self, image_id: int | str | None, name: str | None) -> tuple[_Picture, list[_Entry]]:
        """What it says of one picture, and its annotations."""
        listed, pictures = self._listed, self._pictures
        if set(pictures) <= {""}:
            return {}, self.content["annotations"]
        wanted = list(pictures)
        if image_id is not None and not (listed and name is not None):
            wanted = [str(image_id)] if str(image_id) in pictures else []
        elif name is not None and (listed or len(pictures) > 1):
            # The name of the file, or else the number in it, as in COCO_val2014_000000000139.jpg.
            stem = epath.Path(name).stem
            keys = stem, *_NUMBERED.findall(stem), f"number {stem.rpartition('_')[2].lstrip('0')}"
            wanted = list(dict.fromkeys(number for key in keys for number in self._called.get(key, ())))
        if not wanted:
            # Results list only what was found: in a picture that they don't have, that is nothing.
            error = ValueError if listed or image_id is None else NoMasksError
            raise error(f"'{self.file}' has no picture '{name if image_id is None or listed and name else image_id}'")
        if len(wanted) > 1:
            raise ValueError(
                f"'{self.file}' is about {len(wanted)} pictures: say by image_id or name which one is meant"
            )
        return pictures[wanted[0]], self._entries.get(wanted[0], [])


def read_masks(
    source: epath.PathLike, size: Size | None = None, image_id: int | str | None = None, name: str | None = None
) -> Entities:
    """Reads the masks of one picture; what kind of file it is follows from what is in it.

    - A PNG in colours is COCO panoptic: segment R + 256 G + 65536 B, 0 is void. The json with its segments is used
      where it lies as COCO's, under the PNG's name or that of its folder; it may also be given in the PNG's place.
    - A PNG of one channel has the number of a mask in each pixel; 0 is background.
    - A folder has a PNG for each mask, not 0 where it is, in the order of the numbers in their names.
    - A json is a list of {"segmentation": ...}, or {"annotations": [...]} with it: COCO's run lengths and polygons, or
      what SAM's automatic mask generator gives, where masks may be rows of true and false.

    Void is left out, and so are crowds (iscrowd 1), which are counted.

    Args:
        source: the file or folder.
        size: (H, W) of the picture, which the masks must have. Only polygons can't do without it.
        image_id: id of the picture, where a json is about several.
        name: the same by the name of the picture's file; where both are given, the name counts if the json has names.

    Raises:
        FileNotFoundError: there is no such file.
        NoMasksError: it has no mask.
        ValueError: it is of no known kind or damaged, or has masks of another size than the picture.
    """
    path = epath.Path(source)
    if not path.exists():
        raise FileNotFoundError(f"there are no masks '{path}'")
    if path.is_dir():
        entities = _read_folder(path, size)
    else:
        with regular.open_regular(path) as stream:
            head = stream.read(len(_PNG))
        if head == _PNG or path.suffix.lower() == ".png":
            entities = _read_png(path, size)
        elif path.suffix.lower() == ".json" or head.lstrip()[:1] in (b"[", b"{"):
            entities = open_mask_json(path).read(size, image_id, name)
        else:
            raise _unknown(path)
    if not entities.ids:
        raise _no_masks(path, entities.crowds)
    return entities


def open_mask_json(file: epath.PathLike) -> MaskJson:
    """Reads a json of masks, which may be about all pictures of a dataset.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of no known kind, or damaged.
    """
    parsed = _parse(regular.read_bytes(epath.Path(file)), str(file))
    if parsed is None:
        raise _unknown(epath.Path(file))
    return parsed


def mask_reader(masks: epath.PathLike) -> MaskReader:
    """What reads somebody's masks of any picture of a dataset; its arguments and errors are those of `read_masks`.

    Args:
        masks: see `mask_file`; a json about all pictures is read once, and may have none of a picture.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: a json is of no known kind, or damaged.
    """
    path = epath.Path(masks)
    if not path.exists():
        raise FileNotFoundError(
            f"there are no masks '{path}': name a json about all pictures, or a folder with STEM.png, STEM.json or a "
            "folder STEM for the picture STEM.jpg"
        )
    if path.suffix.lower() == ".json" and not path.is_dir():
        return open_mask_json(path).read
    return lambda size, image_id, name: read_masks(mask_file(path, name), size, image_id, name)


def mask_file(masks: epath.PathLike, picture: str) -> epath.Path:
    """Where the masks of a picture are: a json about all pictures, or in a folder what is called like the picture.

    Args:
        masks: the json, or the folder with STEM.png, STEM.json or the folder STEM for each picture, see `read_masks`.
        picture: the name of the picture's file.

    Raises:
        FileNotFoundError: there is nothing.
    """
    masks, stem = epath.Path(masks), epath.Path(picture).stem
    if masks.suffix.lower() == ".json" and not masks.is_dir():
        return masks
    places = [masks / f"{stem}.png", masks / f"{stem}.json", masks / stem]
    for place in places:
        if place.exists():
            return place
    raise FileNotFoundError(f"there are no masks for '{picture}': no {' or '.join(map(str, places))}")


def label_entities(found: np.ndarray, entries: Sequence[Mapping], names: Mapping[int, str], where: str) -> Entities:
    """Masks with what COCO's annotations of them say.

    Args:
        found: bool [M, H, W].
        entries: for each, a dict that may have "id", "score" or "predicted_iou", and "category_id".
        names: names of the categories.
        where: source of the entries, for errors.

    Raises ValueError if some entries have one of these and others don't, or two have the same id.
    """
    ids = _column(entries, "id", where) or tuple(range(len(entries)))
    if len(set(ids)) < len(ids):
        raise ValueError(f"{where} has several masks with the id {next(i for i in ids if ids.count(i) > 1)}")
    scores = _column(entries, "score", where) or _column(entries, "predicted_iou", where)
    category_ids = _column(entries, "category_id", where)
    return Entities(
        masks=found,
        ids=ids,
        names=tuple(names.get(number, str(number)) for number in category_ids) if category_ids else _as_texts(ids),
        scores=None if scores is None else np.array(scores, np.float32),
        category_ids=category_ids,
    )


def _column(entries: Sequence[Mapping], key: str, where: str) -> tuple | None:
    """A value of every entry; None if they have none."""
    values = tuple(entry[key] for entry in entries if entry.get(key) is not None)
    if values and len(values) < len(entries):
        raise ValueError(f"{where} has masks with '{key}' and masks without: all must have it, or none")
    return values or None


def _as_texts(numbers: Sequence[int]) -> tuple[str, ...]:
    return tuple(map(str, numbers))


def _no_masks(path: epath.Path, crowds: int) -> NoMasksError:
    return NoMasksError(f"there is not one mask in '{path}'" + f" but {crowds} of crowds (iscrowd 1)" * bool(crowds))


def _unknown(path: epath.Path) -> ValueError:
    return ValueError(f"cannot read masks from '{path}'; what can be read: {_KNOWN}")


def _check_size(what: str, found: Size, size: Size | None) -> None:
    """Raises ValueError if a mask is not of the picture's size."""
    if size is not None and tuple(found) != tuple(size):
        sizes = [" x ".join(map(str, shape)) for shape in (found, size)]
        raise ValueError(f"{what} has {sizes[0]} pixels, but the picture has {sizes[1]}")


def _read_folder(folder: epath.Path, size: Size | None) -> Entities:
    pngs = sorted((file for file in folder.iterdir() if file.suffix.lower() == ".png"), key=_natural)
    if not pngs:
        raise NoMasksError(f"there is not one mask in '{folder}': it has no PNG")
    found = []
    for png in pngs:
        ids = open_id_map(png)
        _check_size(f"'{png}'", ids.shape, size)
        size = ids.shape  # of the picture, or else of the first mask
        if len(np.unique(ids[ids != 0])) > 1:
            raise ValueError(f"'{png}' is not a binary mask: it has several values besides 0")
        found.append(ids != 0)
    return Entities(np.stack(found), tuple(range(len(pngs))), tuple(png.stem for png in pngs))


def _natural(file: epath.Path) -> list[tuple[int, str]]:
    """A key that puts 2.png before 10.png."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", file.stem)]


def _read_png(png: epath.Path, size: Size | None) -> Entities:
    for file in segment_files(png):
        parsed = _parse(regular.read_bytes(file), str(file)) if file.exists() else None
        if parsed is None or not _is_panoptic(parsed.content):
            continue  # there is none, or it is about something else
        content = parsed.content
        own = [a for a in content["annotations"] if posixpath.basename(a.get("file_name", png.name)) == png.name]
        if len(own) != 1:
            raise ValueError(f"{file} should have '{png.name}' once, but has it {len(own)} times")
        return _read_segments(png, size, own[0]["segments_info"], _category_names(content), file)
    ids = open_id_map(png)
    _check_size(f"'{png}'", ids.shape, size)
    numbers = np.unique(ids[ids != VOID])
    if len(numbers) > _MOST_SEGMENTS or len(numbers) > _FEW_SEGMENTS and _changes(ids) > 1 / 3:
        raise ValueError(f"'{png}' is a picture, not masks: its {len(numbers)} colours change from pixel to pixel")
    _check_memory(len(numbers), ids.shape, f"'{png}'")
    found = tuple(numbers.tolist())
    return Entities(ids == numbers[:, None, None], found, _as_texts(found))


def _changes(ids: np.ndarray) -> float:
    """The share of pixels of int [H, W] that differ from the next one in their row: .4 to .9 in photographs."""
    return float(np.mean(ids[:, 1:] != ids[:, :-1])) if ids.shape[1] > 1 else 0.0


def _read_segments(
    png: epath.Path, size: Size | None, segments: list[_Entry], names: Mapping[int, str], file: epath.Path
) -> Entities:
    """The segments of a PNG that a json lists."""
    ids = open_id_map(png)
    _check_size(f"'{png}'", ids.shape, size)
    if not _all_have(segments, "id"):
        raise ValueError(f"{file} is not COCO's panoptic json: a segment of '{png.name}' has no 'id'")
    check_segments(ids, [segment["id"] for segment in segments], png, str(file))
    own = [segment for segment in segments if not segment.get("iscrowd")]
    numbers = np.array([segment["id"] for segment in own], np.int32)
    _check_memory(len(own), ids.shape, f"'{png}'")
    entities = label_entities(ids == numbers[:, None, None], own, names, str(file))
    return entities._replace(crowds=len(segments) - len(own))


def _check_memory(count: int, size: Size, where: str) -> None:
    """Raises ValueError where so many masks of a picture would not fit into memory."""
    if count * size[0] * size[1] > _MOST_PIXELS:
        raise ValueError(f"{where} has {count} masks of {size[0]} x {size[1]} pixels, too many to hold at once")


@functools.lru_cache(maxsize=1)
def _parse(data: bytes, name: str) -> MaskJson | None:
    """A json of masks, not to be changed; None if it is about something else.

    It may be about thousands of pictures and is asked about one after the other.

    Kept by what is in it: a time of change has seconds only, and comparing bytes takes no time beside parsing them.
    """
    content = _as_coco(records.decode(data, Any, name))
    if not _is_panoptic(content) and not _all_have(content.get("annotations"), "segmentation"):
        return None
    return MaskJson(epath.Path(name), records.convert(content, _Content, name))


def _as_coco(content: Any) -> dict[str, Any]:
    """A list of annotations, or a single one of a panoptic picture, in the form of COCO's files."""
    if isinstance(content, dict):
        return {"annotations": [content]} if "segments_info" in content else content
    return {"annotations": content}


def _all_have(entries: Any, key: str) -> bool:
    return isinstance(entries, list) and all(isinstance(entry, dict) and key in entry for entry in entries)


def _is_panoptic(content: Mapping[str, Any]) -> bool:
    return bool(content.get("annotations")) and _all_have(content["annotations"], "segments_info")


def _category_names(content: _Content) -> dict[int, str]:
    return {category["id"]: category["name"] for category in content.get("categories") or []}


def _decode(segmentation: Any, size: Size | None, what: str) -> np.ndarray:
    """bool [H, W], whatever it is encoded in."""
    first = segmentation[0] if isinstance(segmentation, list) and segmentation else segmentation
    is_rows = isinstance(first, list) and bool(first) and all(pixel in (0, 1) for pixel in first)
    own = (len(segmentation), len(first)) if is_rows else first.get("size") if isinstance(first, dict) else None
    if isinstance(own, list | tuple):
        _check_size(what, own, size)
    elif size is None:
        raise ValueError(f"{what} does not tell its size, as polygons don't: that of the picture is needed")
    try:
        return np.array(segmentation, bool) if is_rows else masks.decode_mask(segmentation, tuple(size or own))
    except ValueError as error:
        raise ValueError(f"{what} is damaged: {error}") from error
