"""GELLA for people who want masks: load a model, hand it a picture, a caption and anybody's masks, get what is meant.

    gella = gella_jax.load("CKPT")
    grounding = gella.ground(image, "A dog lies on a couch.", entities)
    [(noun.text, noun.span, noun.masks) for noun in grounding.nouns]

Without a caption the model writes one first. Nouns are *generated*, or *given*: then the answer that names them is the
model's input, and one pass reads it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from gella_jax import prompts
from gella_jax.answers import Grounding, Noun, Nouns, Reference
from gella_jax.engine import (
    MOST_NEW,
    LeftOut,
    Question,
    Segmented,
    Written,
    associate,
    encode_image,
    fits,
    full_size,
    generate,
    matrices_of,
    prefill,
    segment_entities,
)
from gella_jax.panoptic import PanopticAnswer, merge
from grounding_jax.data.entity_masks import Entities
from grounding_jax.data.sources.panoptic_classes import COCO_PANOPTIC, Category
from grounding_jax.inference.engine import Engine, fetch
from grounding_jax.inference.inputs import Picture, as_picture, as_text, as_texts
from grounding_jax.language.batching import pad_batch
from grounding_jax.segmenters import Segmenter
from grounding_jax.segmenters.mask2former import non_overlapping
from grounding_jax.segmenters.proposals import sigmoid

OUTPUTS = ("input", "decoded")
THRESHOLD = 0.5
_PLURAL_THRESHOLD = 0.1  # of the baseline of panoptic narrative grounding, which knows what is plural


class Request(NamedTuple):
    """What `Gella.ground_many` is asked about one picture.

    Attributes:
        image: uint8 ``[H, W, 3]`` RGB, a Pillow picture or the path of a file.
        caption: text about the picture; None lets the model describe it.
        entities: the masks, E of them, see `as_entities`; None takes those that the model finds itself.
        nouns: nouns of the caption; None lets the model name them.
        image_id: name of the picture; random colours depend on it.
    """

    image: Picture
    caption: str | None = None
    entities: Entities | np.ndarray | None = None
    nouns: str | Sequence[str] | None = None
    image_id: str = ""

    def typed(self) -> Request:
        """The same with an array, entities and a list of nouns; TypeError or ValueError where that can't be."""
        caption = None if self.caption is None else as_text(self.caption, "a caption")
        nouns = None if self.nouns is None else as_texts(self.nouns, "a noun")
        if nouns is not None and caption is None:
            raise ValueError("there are nouns without the caption that they are of")
        entities = None if self.entities is None else as_entities(self.entities)
        return Request(as_picture(self.image), caption, entities, nouns, self.image_id)


class Gella:
    """A model that describes, names, grounds, refers and segments.

    Attributes:
        engine: the model in memory.
        segmenter: finds the masks of pictures that come without; None where the model has nothing that does.
        categories: a panoptic segmentation is of these where no others are named.
    """

    def __init__(
        self,
        engine: Engine,
        segmenter: Segmenter | None = None,
        categories: Sequence[Category] = COCO_PANOPTIC,
    ):
        self.engine = engine
        self.segmenter = segmenter
        self.categories = tuple(categories)

    def describe(self, image: Picture, max_new: int = MOST_NEW) -> str:
        """Describes a picture, see `Request`, in at most ``max_new`` tokens (spec gella D1)."""
        _, patches = encode_image(self.engine, [as_picture(image)])
        return generate(self.engine, [Question(prompts.describe_question(), "")], patches, max_new)[0].text

    def nouns(self, image: Picture, caption: str, max_new: int = MOST_NEW) -> Nouns:
        """The nouns of a caption (spec gella D2).

        Args:
            image: uint8 ``[H, W, 3]`` RGB, a Pillow picture or the path of a file.
            caption: text about the picture.
            max_new: the most tokens to write.

        Raises:
            ValueError: the caption is empty or longer than the model's context.
        """
        caption = as_text(caption, "a caption")
        _, patches = encode_image(self.engine, [as_picture(image)])
        written = generate(self.engine, [Question(prompts.nouns_question(caption), caption)], patches, max_new)[0]
        spans = tuple(prompts.find_spans(written.nouns, caption))
        return Nouns(written.text, written.nouns, spans, written.finished)

    def ground(
        self,
        image: Picture,
        caption: str | None = None,
        entities: Entities | np.ndarray | None = None,
        nouns: str | Sequence[str] | None = None,
        threshold: float = THRESHOLD,
        output_masks: str = "input",
        absent: bool = False,
    ) -> Grounding:
        """Which masks every noun of a caption means (spec gella D3).

        Args:
            image: uint8 ``[H, W, 3]`` RGB, a Pillow picture or the path of a file.
            caption: text about the picture; None lets the model describe it first, as `describe` does.
            entities: masks, bool ``[E, H, W]``, or what `read_masks` gives; they may overlap. None takes those that
                `segmenter` finds.
            nouns: nouns of the caption, a lone text is one; None lets the model name them.
            threshold: a noun means all masks with a higher score, or the best one where none has.
            output_masks: "input" answers with the masks that were put in, "decoded" with those the model makes of them.
            absent: a noun without a mask of a higher score means none; the paper has no such rule.

        Raises:
            ValueError: there is no mask, masks have another size than the picture, the caption is empty or longer
                than the model's context, a noun is empty, or the model has no words for the picture.
            TypeError: something is given that is no picture, text or array of masks.
        """
        return self.ground_many([Request(image, caption, entities, nouns)], threshold, output_masks, absent=absent)[0]

    def ground_many(
        self,
        requests: Sequence[Request],
        threshold: float = THRESHOLD,
        output_masks: str = "input",
        plurals: Sequence[Sequence[bool]] | None = None,
        absent: bool = False,
    ) -> list[Grounding]:
        """`ground` for several pictures in one batch; see there.

        Args:
            requests: pictures, each with what is given about it.
            threshold, output_masks, absent: see `ground`.
            plurals: True for each given noun that means several masks; it is then chosen as by the baseline of the
                benchmark, which knows that (spec gella D3, ``png_protocol``).
        """
        requests = self._typed(requests)
        segmented, patches = self._begin(requests, output_masks)
        described = self._describe(requests, patches)
        for b, written in described.items():
            requests[b] = requests[b]._replace(caption=written.text)
        answers = self._answer(requests, patches)
        by_query = associate(self.engine, answers, segmented)
        groundings = []
        for b, (request, answer) in enumerate(zip(requests, answers, strict=True)):
            logits, entities = segmented.by_mask(b, by_query[b]), self._output(segmented, b, request, output_masks)
            scores = sigmoid(logits)
            nouns = []
            for i, span in enumerate(prompts.find_spans(answer.nouns, request.caption)):
                places = meant(logits[i], threshold, None if plurals is None else plurals[b][i], absent)
                mask = entities.masks[list(places)].any(0)
                nouns.append(Noun(answer.nouns[i], span, places, scores[i], mask, absent and not places))
            finished = answer.finished and (b not in described or described[b].finished)
            rest = segmented.left_out(b), finished, b in described
            groundings.append(Grounding(answer.text, request.caption, tuple(nouns), entities, *rest))
        return groundings

    def refer(
        self,
        image: Picture,
        expression: str,
        entities: Entities | np.ndarray | None = None,
        output_masks: str = "input",
    ) -> Reference:
        """The one mask that an expression means (spec gella D4); arguments and errors as for `ground`."""
        return self.refer_many([Request(image, expression, entities)], output_masks)[0]

    def refer_many(self, requests: Sequence[Request], output_masks: str = "input") -> list[Reference]:
        """`refer` for several expressions, each the caption of a request, in one batch."""
        for request in requests:
            as_text(request.caption, "an expression")
        requests = self._typed(requests)
        segmented, patches = self._begin(requests, output_masks)
        answers = self._answer(requests, patches)
        nounless = [b for b, answer in enumerate(answers) if not answer.nouns]
        themselves = [request._replace(nouns=[prompts.clean_noun(request.caption)]) for request in requests]
        for b, answer in self._prefill(themselves, nounless, patches).items():
            answers[b] = answer._replace(text=answers[b].text)
        by_query = associate(self.engine, answers, segmented)
        references = []
        for b, (request, answer) in enumerate(zip(requests, answers, strict=True)):
            logits = segmented.by_mask(b, by_query[b]).max(0)
            (place,) = meant(logits, threshold=1.0) or (None,)
            mask = np.zeros(request.image.shape[:2], bool)
            if place is not None:
                mask = self._output(segmented, b, request, output_masks).masks[place]
            score = 0.0 if place is None else float(sigmoid(logits[place]))
            rest = segmented.left_out(b), answer.finished
            references.append(Reference(request.caption, answer.text, answer.nouns, place, score, mask, *rest))
        return references

    def panoptic(
        self,
        image: Picture,
        entities: Entities | np.ndarray | None = None,
        vocabulary: Category | str | Sequence[Category | str] | None = None,
        output_masks: str = "input",
    ) -> PanopticAnswer:
        """Gives every entity the category that it most probably is, and every pixel one segment (spec gella D5).

        Args:
            image: uint8 ``[H, W, 3]`` RGB, a Pillow picture or the path of a file.
            entities: see `ground`.
            vocabulary: categories; a name alone is a thing. None takes `categories`.
            output_masks: "input" merges the masks that were put in, "decoded" all that the model makes of its queries.

        Raises:
            ValueError: as for `ground`, or the vocabulary is empty or has a name twice.
        """
        categories = self.categories if vocabulary is None else as_categories(vocabulary)
        return self.panoptic_many([Request(image, "", entities)], categories, output_masks)[0]

    def panoptic_many(
        self, requests: Sequence[Request], categories: Sequence[Category], output_masks: str = "input"
    ) -> list[PanopticAnswer]:
        """`panoptic` for several pictures in one batch; the caption of a request is not looked at."""
        names = [category.spoken for category in categories]
        caption = prompts.panoptic_caption(names)
        requests = self._typed([request._replace(caption=caption, nouns=names) for request in requests])
        segmented, patches = self._begin(requests, output_masks)
        by_query = associate(self.engine, self._answer(requests, patches), segmented)
        merged = []
        for b, request in enumerate(requests):
            places, queries, probability = self._candidates(segmented, b, request, output_masks)
            best = by_query[b][:, queries].argmax(0)
            scores = sigmoid(by_query[b][best, queries]) * segmented.entity_probability(b)[queries]
            one = merge(scores, [categories[i] for i in best], probability, request.image.shape[:2])
            own = {reason: tuple(places[list(which)].tolist()) for reason, which in one.left_out.items()}
            merged.append(dataclasses.replace(one, left_out={**segmented.left_out(b), **own}))
        return merged

    def entities_many(self, requests: Sequence[Request]) -> list[tuple[Entities, LeftOut]]:
        """What the mask branch makes of masks, without overlaps and best first, and which it did not get.

        Captions are not looked at.
        """
        requests = self._typed(requests)
        alone = self.engine.config.blend is None
        segmented = self._decode(requests, None) if alone else self._segment(requests)[0]
        found = []
        for b, request in enumerate(requests):
            logits = (
                fetch(array[b]) for array in (segmented.prediction.class_logits, segmented.prediction.mask_logits)
            )
            entities = non_overlapping(*logits, matrices_of(self.engine, segmented, request.image.shape[:2])).entities
            found.append((entities, segmented.left_out(b)))
        return found

    def fits(self, caption: str, nouns: Sequence[str] | None = None) -> bool:
        """Whether the question about a caption, and the answer where nouns are given, fit into the context."""
        return fits(self.engine, caption, nouns)

    def _typed(self, requests: Sequence[Request]) -> list[Request]:
        """The same with arrays and lists, and with the masks that the model finds where none are given."""
        requests = [request.typed() for request in requests]
        bare = [b for b, request in enumerate(requests) if request.entities is None]
        if bare and self.segmenter is None:
            raise ValueError("there are no masks, and this model finds none itself: give it yours")
        found = self.segmenter([requests[b].image for b in bare]) if bare else []
        for b, proposals in zip(bare, found, strict=True):
            requests[b] = requests[b]._replace(entities=proposals.entities)
        return requests

    def _begin(self, requests: Sequence[Request], output_masks: str) -> tuple[Segmented, jax.Array]:
        """What the mask branch makes of requests, and the patches, once nothing is wrong with what was asked."""
        if output_masks not in OUTPUTS:
            raise ValueError(f"output_masks is {output_masks!r}, should be {' or '.join(OUTPUTS)}")
        for request in requests:
            if request.caption is not None:
                prompts.nouns_question(request.caption)
        return self._segment(requests)

    def _describe(self, requests: Sequence[Request], patches: jax.Array) -> dict[int, Written]:
        """Descriptions of the pictures that came without a caption, by their places."""
        question = Question(prompts.describe_question(), "")
        silent = [b for b, request in enumerate(requests) if request.caption is None]
        described = self._generate([question] * len(requests), silent, patches)
        if not all(written.text.strip() for written in described.values()):
            raise ValueError("the model has no words for this picture: give it a caption")
        return described

    def _answer(self, requests: Sequence[Request], patches: jax.Array) -> list[Written]:
        """Answers with the nouns that are given, or with the model's own."""
        given = [b for b, request in enumerate(requests) if request.nouns is not None]
        free = [b for b, request in enumerate(requests) if request.nouns is None]
        generated = self._generate([_question(request) for request in requests], free, patches)
        answers = {**self._prefill(requests, given, patches), **generated}
        return [answers[b] for b in range(len(requests))]

    def _prefill(self, requests: Sequence[Request], places: Sequence[int], patches: jax.Array) -> dict[int, Written]:
        """Answers about some pictures of a batch with the nouns that are given, by their places."""
        if not places:
            return {}
        rows, own = self._rows(places, len(requests), patches)
        questions, nouns = [_question(requests[b]) for b in rows], [requests[b].nouns for b in rows]
        return dict(zip(rows, prefill(self.engine, questions, nouns, own), strict=True))

    def _generate(self, questions: Sequence[Question], places: Sequence[int], patches: jax.Array) -> dict[int, Written]:
        """What the model writes about some pictures of a batch, by their places."""
        if not places:
            return {}
        rows, own = self._rows(places, len(questions), patches)
        return dict(zip(rows, generate(self.engine, [questions[b] for b in rows], own), strict=True))

    def _rows(self, places: Sequence[int], count: int, patches: jax.Array) -> tuple[list[int], jax.Array]:
        """Some pictures of a batch and their patches, in as many rows: another number would be another program."""
        rows = pad_batch(places, count)
        return rows, self.engine.split(patches[np.array(pad_batch(rows, self.engine.batcher.multiple))])

    def _segment(self, requests: Sequence[Request]) -> tuple[Segmented, jax.Array]:
        """What the mask branch makes of requests, and the patches."""
        features, patches = encode_image(self.engine, [request.image for request in requests])
        return self._decode(requests, features), patches

    def _decode(self, requests: Sequence[Request], features: jax.Array | None) -> Segmented:
        """What the mask branch makes of requests and of the features of their pictures."""
        for request in requests:
            _check_masks(request.image, request.entities)
        entities, image_ids = zip(*((request.entities, request.image_id) for request in requests), strict=True)
        return segment_entities(self.engine, features, entities, image_ids)

    def _candidates(
        self, segmented: Segmented, b: int, request: Request, output_masks: str
    ) -> tuple[np.ndarray, np.ndarray, Callable[[int], np.ndarray]]:
        """What may become a segment: places of masks (or queries) and their queries, int ``[n]``, and from 0 ... n the
        probability of each pixel."""
        if output_masks == "decoded":
            logits = full_size(self.engine, segmented, b, request.image.shape[:2])
            queries = np.arange(self.engine.config.mask2former.queries)
            return queries, queries, lambda n: sigmoid(logits(n))
        query_of_mask = segmented.query_of_mask(b)
        seen = np.flatnonzero(query_of_mask >= 0)
        return seen, query_of_mask[seen], lambda n: request.entities.masks[seen[n]].astype(np.float32)

    def _output(self, segmented: Segmented, b: int, request: Request, output_masks: str) -> Entities:
        """The entities of a picture with the masks that were asked for; a decoded one without a query is empty."""
        if output_masks == "input":
            return request.entities
        logits = full_size(self.engine, segmented, b, request.image.shape[:2])
        masks = np.zeros_like(request.entities.masks)
        for k, query in enumerate(segmented.query_of_mask(b)):
            if query >= 0:
                masks[k] = logits(query) > 0
        return request.entities._replace(masks=masks)


def _question(request: Request) -> Question:
    """Asks for the nouns of a caption."""
    return Question(prompts.nouns_question(request.caption), request.caption)


def meant(logits: np.ndarray, threshold: float, plural: bool | None = None, absent: bool = False) -> tuple[int, ...]:
    """The masks that a noun means, the most probable first (spec gella D3).

    Args:
        logits: ``[E]``, -inf for masks that can't be meant. Probabilities would not do: the largest are all 1.
        threshold: all of a higher probability are meant, or the best one where none is.
        plural: True if several are meant, where that is known: then the best one, or all above 0.1, as the baseline of
            panoptic narrative grounding does.
        absent: none is meant where none is above the threshold.
    """
    order = np.argsort(-logits, kind="stable")
    order = order[logits[order] > -np.inf]
    above = order[sigmoid(logits[order]) > (threshold if plural is None else _PLURAL_THRESHOLD)]
    if plural is None:
        chosen = above if len(above) or absent else order[:1]
    else:
        chosen = above if plural else order[:1]
    return tuple(chosen.tolist())


def as_entities(masks: Entities | np.ndarray) -> Entities:
    """Masks ``[E, H, W]``, bool or thresholded at 0.5, as entities that are called by their places."""
    if isinstance(masks, Entities):
        return masks
    masks = np.asarray(masks)
    if masks.dtype.kind not in "biuf":
        raise TypeError(f"masks must be an array [E, H, W] of truth values or numbers, got {masks.dtype}")
    if masks.ndim != 3:
        raise ValueError(f"masks must be [E, H, W], got {list(masks.shape)}")
    return Entities(
        masks if masks.dtype == bool else masks > 0.5, tuple(range(len(masks))), tuple(map(str, range(len(masks))))
    )


def as_categories(vocabulary: Category | str | Sequence[Category | str]) -> tuple[Category, ...]:
    """A vocabulary as categories: a name alone is a thing, and its number its place from 1."""
    if isinstance(vocabulary, Category | str):
        vocabulary = [vocabulary]
    named = (one if isinstance(one, Category) else as_text(one, "a category") for one in vocabulary)
    categories = tuple(
        one if isinstance(one, Category) else Category(place, one, True) for place, one in enumerate(named, 1)
    )
    ids = [category.id for category in categories]
    if len(set(ids)) < len(ids):
        raise ValueError(f"the vocabulary has the id {next(i for i in ids if ids.count(i) > 1)} more than once")
    return categories


def _check_masks(image: np.ndarray, entities: Entities) -> None:
    """Raises ValueError unless there are masks of the picture's size."""
    if not len(entities.masks):
        raise ValueError("there are no masks: GELLA says which of somebody's masks are meant, it needs at least one")
    if entities.masks.shape[1:] != image.shape[:2]:
        sizes = [" x ".join(map(str, shape)) for shape in (entities.masks.shape[1:], image.shape[:2])]
        raise ValueError(f"the masks have {sizes[0]} pixels, but the picture has {sizes[1]}")
