"""GELLA for people who want masks: load a model, hand it a picture, a caption and anybody's masks, get what is meant.

    gella = gella_jax.load("CKPT")
    grounding = gella.ground(image, "A dog lies on a couch.", entities)
    [(noun.text, noun.span, noun.masks) for noun in grounding.nouns]

Nouns are *generated*, or *given*: then the answer that names them is the model's input, and one pass reads it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

from gella_jax import prompts, weights
from gella_jax.branches import MOST_NEW, Branches, LeftOut, Question, Segmented, Written
from gella_jax.panoptic import Panoptic, merge
from gella_jax.sharding import table
from grounding_jax.data.entity_masks import Entities
from grounding_jax.data.narratives import Span
from grounding_jax.data.panoptic_classes import COCO_PANOPTIC, Category
from grounding_jax.language.batching import filled
from grounding_jax.proposals import non_overlapping, sigmoid
from grounding_jax.sharding.mesh import MeshShape
from grounding_jax.sharding.placement import place
from grounding_jax.training.run_folder import find_folder

OUTPUTS = ("input", "decoded")
THRESHOLD = 0.5
_PLURAL_THRESHOLD = 0.1  # of the baseline of panoptic narrative grounding, which knows what is plural


class Request(NamedTuple):
    """What `Gella.ground_many` is asked about one picture.

    Attributes:
        image: uint8 ``[H, W, 3]`` RGB.
        caption: what is said about it.
        entities: the masks, E of them.
        nouns: of the caption; None lets the model name them.
        image_id: what the picture is called; random colours depend on it.
    """

    image: np.ndarray
    caption: str
    entities: Entities
    nouns: Sequence[str] | None = None
    image_id: str = ""


@dataclasses.dataclass(frozen=True)
class Noun:
    """A noun of a caption and what it means.

    Attributes:
        text: the noun.
        span: its first character in the caption and the one after its last; None where the caption does not have it.
        masks: places among the entities, the most probable first; none where no mask could be meant.
        scores: float32 ``[E]``, how probable it is that each mask is meant; 0 for masks that have no query, see
            `Grounding.left_out`.
        mask: bool ``[H, W]``, all of `masks` together.
    """

    text: str
    span: Span | None
    masks: tuple[int, ...]
    scores: np.ndarray
    mask: np.ndarray

    @property
    def score(self) -> float:
        """Of the most probable mask that it means."""
        return float(self.scores[self.masks[0]]) if self.masks else 0.0


@dataclasses.dataclass(frozen=True)
class Nouns:
    """An answer about a caption alone.

    Attributes:
        text: as the model wrote it.
        nouns: in it.
        spans: where the caption has them, see `Noun`.
        finished: see `Grounding`.
    """

    text: str
    nouns: tuple[str, ...]
    spans: tuple[Span | None, ...]
    finished: bool = True


@dataclasses.dataclass(frozen=True)
class Grounding:
    """What the nouns of a caption mean.

    Attributes:
        text: the answer, as the model wrote it or as it was given.
        caption: as it was asked.
        nouns: in the order of the answer.
        entities: those that were put in, with the masks that were asked for.
        left_out: places of those that no noun can mean: "hidden", of which nothing is seen, and "surplus", beyond the
            model's queries, the smallest.
        finished: whether the answer ends by itself, not at the limit on tokens.
    """

    text: str
    caption: str
    nouns: tuple[Noun, ...]
    entities: Entities
    left_out: LeftOut
    finished: bool = True


@dataclasses.dataclass(frozen=True)
class Reference:
    """What an expression means.

    Attributes:
        expression: as it was asked.
        text: the answer that the model wrote.
        nouns: of the expression; where the model wrote none, the expression itself.
        place: of the mask among the entities; None where none is seen.
        score: how probable it is that the mask is meant, the best of the nouns.
        mask: bool ``[H, W]``.
        left_out, finished: see `Grounding`.
    """

    expression: str
    text: str
    nouns: tuple[str, ...]
    place: int | None
    score: float
    mask: np.ndarray
    left_out: LeftOut = dataclasses.field(default_factory=dict)
    finished: bool = True


class Gella(Branches):
    """A model in memory that describes, names, grounds, refers and segments."""

    def describe(self, image: np.ndarray, max_new: int = MOST_NEW) -> str:
        """Describes a picture, uint8 ``[H, W, 3]``, in at most ``max_new`` tokens (spec gella D1)."""
        _, patches = self.see([image])
        return self.write([Question(prompts.describe_question(), "")], patches, max_new)[0].text

    def nouns(self, image: np.ndarray, caption: str, max_new: int = MOST_NEW) -> Nouns:
        """The nouns of a caption (spec gella D2).

        Args:
            image: uint8 ``[H, W, 3]``.
            caption: what is said about it.
            max_new: the most tokens to write.

        Raises:
            ValueError: the caption is empty or longer than the model's context.
        """
        _, patches = self.see([image])
        written = self.write([Question(prompts.nouns_question(caption), caption)], patches, max_new)[0]
        spans = tuple(prompts.find_spans(written.nouns, caption))
        return Nouns(written.text, written.nouns, spans, written.finished)

    def ground(
        self,
        image: np.ndarray,
        caption: str,
        entities: Entities | np.ndarray,
        nouns: Sequence[str] | None = None,
        threshold: float = THRESHOLD,
        output_masks: str = "input",
    ) -> Grounding:
        """Which masks every noun of a caption means (spec gella D3).

        Args:
            image: uint8 ``[H, W, 3]``.
            caption: what is said about it.
            entities: masks, bool ``[E, H, W]``, or what `read_masks` gives; they may overlap.
            nouns: of the caption; None lets the model name them.
            threshold: a noun means all masks with a higher score, or the best one where none has.
            output_masks: "input" answers with the masks that were put in, "decoded" with those the model makes of them.

        Raises:
            ValueError: there is no mask, masks have another size than the picture, the caption is empty or longer
                than the model's context, or a noun is empty.
        """
        request = Request(image, caption, as_entities(entities), nouns)
        return self.ground_many([request], threshold, output_masks)[0]

    def ground_many(
        self,
        requests: Sequence[Request],
        threshold: float = THRESHOLD,
        output_masks: str = "input",
        plurals: Sequence[Sequence[bool]] | None = None,
    ) -> list[Grounding]:
        """`ground` for several pictures in one batch; see there.

        Args:
            requests: all with nouns, or none.
            threshold, output_masks: see `ground`.
            plurals: whether each given noun means several masks; then it is chosen as by the baseline of the benchmark,
                which knows that (spec gella D3, ``png_protocol``).
        """
        segmented, patches, questions = self._begin(requests, output_masks)
        answers = self._answer(requests, questions, patches)
        by_query = self.pair(answers, segmented)
        groundings = []
        for b, (request, answer) in enumerate(zip(requests, answers, strict=True)):
            logits, entities = segmented.by_mask(b, by_query[b]), self._output(segmented, b, request, output_masks)
            scores = sigmoid(logits)
            nouns = []
            for i, span in enumerate(prompts.find_spans(answer.nouns, request.caption)):
                places = meant(logits[i], threshold, None if plurals is None else plurals[b][i])
                mask = entities.masks[list(places)].any(0)
                nouns.append(Noun(answer.nouns[i], span, places, scores[i], mask))
            rest = segmented.left_out(b), answer.finished
            groundings.append(Grounding(answer.text, request.caption, tuple(nouns), entities, *rest))
        return groundings

    def refer(
        self, image: np.ndarray, expression: str, entities: Entities | np.ndarray, output_masks: str = "input"
    ) -> Reference:
        """The one mask that an expression means (spec gella D4); arguments and errors as for `ground`."""
        return self.refer_many([Request(image, expression, as_entities(entities))], output_masks)[0]

    def refer_many(self, requests: Sequence[Request], output_masks: str = "input") -> list[Reference]:
        """`refer` for several expressions, each the caption of a request, in one batch; with nouns, or all without."""
        segmented, patches, questions = self._begin(requests, output_masks)
        answers = self._answer(requests, questions, patches)
        silent = [b for b, answer in enumerate(answers) if not answer.nouns]
        if silent:
            expressions = [[prompts.clean_noun(requests[b].caption)] for b in silent]
            own = self.split(patches[np.array(filled(silent, self.batcher.multiple))])
            for b, answer in zip(silent, self.read([questions[b] for b in silent], expressions, own), strict=True):
                answers[b] = answer._replace(text=answers[b].text)
        by_query = self.pair(answers, segmented)
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
        image: np.ndarray,
        entities: Entities | np.ndarray,
        vocabulary: Sequence[Category | str] = COCO_PANOPTIC,
        output_masks: str = "input",
    ) -> Panoptic:
        """Gives every entity the category that it most probably is, and every pixel one segment (spec gella D5).

        Args:
            image: uint8 ``[H, W, 3]``.
            entities: see `ground`.
            vocabulary: categories; a name alone is a thing.
            output_masks: "input" merges the masks that were put in, "decoded" all that the model makes of its queries.

        Raises:
            ValueError: as for `ground`, or the vocabulary is empty or has a name twice.
        """
        request = Request(image, "", as_entities(entities))
        return self.panoptic_many([request], as_categories(vocabulary), output_masks)[0]

    def panoptic_many(
        self, requests: Sequence[Request], categories: Sequence[Category], output_masks: str = "input"
    ) -> list[Panoptic]:
        """`panoptic` for several pictures in one batch; the caption of a request is not looked at."""
        names = [category.spoken for category in categories]
        caption = prompts.panoptic_caption(names)
        requests = [request._replace(caption=caption) for request in requests]
        segmented, patches, questions = self._begin(requests, output_masks)
        by_query = self.pair(self.read(questions, [names] * len(requests), patches), segmented)
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
        segmented, _ = self._see(requests)
        found = []
        for b, request in enumerate(requests):
            logits = (
                np.asarray(array[b]) for array in (segmented.prediction.class_logits, segmented.prediction.mask_logits)
            )
            entities = non_overlapping(*logits, self.matrices(segmented, request.image.shape[:2])).entities
            found.append((entities, segmented.left_out(b)))
        return found

    def _answer(self, requests: Sequence[Request], questions: Sequence[Question], patches: jax.Array) -> list[Written]:
        """Answers with the nouns that are given, or with the model's own."""
        if any(isinstance(request.nouns, str) for request in requests):
            raise ValueError("nouns are a list of texts, like ['dog'], not a text")
        given = [request.nouns for request in requests if request.nouns is not None]
        if given and len(given) < len(requests):
            raise ValueError("some requests name their nouns and some do not: ask about them in two batches")
        return self.read(questions, given, patches) if given else self.write(questions, patches)

    def _begin(self, requests: Sequence[Request], output_masks: str) -> tuple[Segmented, jax.Array, list[Question]]:
        """What the mask branch makes of requests, the patches, and the questions for their nouns."""
        if output_masks not in OUTPUTS:
            raise ValueError(f"output_masks is {output_masks!r}, should be {' or '.join(OUTPUTS)}")
        questions = [Question(prompts.nouns_question(request.caption), request.caption) for request in requests]
        return (*self._see(requests), questions)

    def _see(self, requests: Sequence[Request]) -> tuple[Segmented, jax.Array]:
        """What the mask branch makes of requests, and the patches."""
        for request in requests:
            _check_masks(request.image, request.entities)
        features, patches = self.see([request.image for request in requests])
        return self.find(features, [one.entities for one in requests], [one.image_id for one in requests]), patches

    def _candidates(
        self, segmented: Segmented, b: int, request: Request, output_masks: str
    ) -> tuple[np.ndarray, np.ndarray, Callable[[int], np.ndarray]]:
        """What may become a segment: places of masks (or queries) and their queries, int ``[n]``, and from 0 ... n the
        probability of each pixel."""
        if output_masks == "decoded":
            logits = self.full_size(segmented, b, request.image.shape[:2])
            queries = np.arange(self.config.mask2former.queries)
            return queries, queries, lambda n: sigmoid(logits(n))
        query_of_mask = segmented.query_of_mask(b)
        seen = np.flatnonzero(query_of_mask >= 0)
        return seen, query_of_mask[seen], lambda n: request.entities.masks[seen[n]].astype(np.float32)

    def _output(self, segmented: Segmented, b: int, request: Request, output_masks: str) -> Entities:
        """The entities of a picture with the masks that were asked for; a decoded one without a query is empty."""
        if output_masks == "input":
            return request.entities
        logits = self.full_size(segmented, b, request.image.shape[:2])
        masks = np.zeros_like(request.entities.masks)
        for k, query in enumerate(segmented.query_of_mask(b)):
            if query >= 0:
                masks[k] = logits(query) > 0
        return request.entities._replace(masks=masks)


def meant(logits: np.ndarray, threshold: float, plural: bool | None = None) -> tuple[int, ...]:
    """The masks that a noun means, the most probable first (spec gella D3).

    Args:
        logits: ``[E]``, -inf for masks that can't be meant. Probabilities would not do: the largest are all 1.
        threshold: all of a higher probability are meant, or the best one where none is.
        plural: whether several are meant, where that is known: then the best one, or all above 0.1, as the baseline of
            panoptic narrative grounding does.
    """
    order = np.argsort(-logits, kind="stable")
    order = order[logits[order] > -np.inf]
    above = order[sigmoid(logits[order]) > (threshold if plural is None else _PLURAL_THRESHOLD)]
    if plural is None:
        chosen = above if len(above) else order[:1]
    else:
        chosen = above if plural else order[:1]
    return tuple(chosen.tolist())


def as_entities(masks: Entities | np.ndarray) -> Entities:
    """Masks ``[E, H, W]``, bool or thresholded at 0.5, as entities that are called by their places."""
    if isinstance(masks, Entities):
        return masks
    masks = np.asarray(masks)
    if masks.ndim != 3:
        raise ValueError(f"masks must be [E, H, W], got {list(masks.shape)}")
    return Entities(
        masks if masks.dtype == bool else masks > 0.5, tuple(range(len(masks))), tuple(map(str, range(len(masks))))
    )


def as_categories(vocabulary: Sequence[Category | str]) -> tuple[Category, ...]:
    """A vocabulary as categories: a name alone is a thing, and its number its place from 1."""
    categories = tuple(
        name if isinstance(name, Category) else Category(place, name, True) for place, name in enumerate(vocabulary, 1)
    )
    ids = [category.id for category in categories]
    if len(set(ids)) < len(ids):
        raise ValueError(f"the vocabulary has the id {next(i for i in ids if ids.count(i) > 1)} more than once")
    return categories


def load(checkpoint: epath.PathLike, dtype=None, mesh: MeshShape | None = None) -> Gella:
    """Loads a model for prediction.

    Args:
        checkpoint: a model folder, or a finished run.
        dtype: of the parameters and the computation, or its name; by default float32 on CPU and bfloat16 elsewhere.
        mesh: how the devices of this process are laid out, such as ``MeshShape(data=-1, fsdp=1)`` for a copy of the
            model on each, or ``MeshShape(fsdp=1, tensor=-1)`` for one that is too large for a device; None takes one.

    Raises:
        FileNotFoundError, ValueError: in one line, what is missing or does not fit.
    """
    config, params, tokenizer = weights.load(find_folder(checkpoint))  # mapped files, nothing is read
    placed = place(params, table(config), dtype, mesh)
    return Gella(config, placed.params, tokenizer, placed.dtype, placed.mesh)


def _check_masks(image: np.ndarray, entities: Entities) -> None:
    """Raises ValueError unless there are masks of the picture's size."""
    if not len(entities.masks):
        raise ValueError("there are no masks: GELLA says which of somebody's masks are meant, it needs at least one")
    if entities.masks.shape[1:] != image.shape[:2]:
        sizes = [" x ".join(map(str, shape)) for shape in (entities.masks.shape[1:], image.shape[:2])]
        raise ValueError(f"the masks have {sizes[0]} pixels, but the picture has {sizes[1]}")
