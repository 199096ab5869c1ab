"""What is drawn of a record for training, in the words of the release (spec gsva c.3, c.4).

Each sampler turns one record of a source into a `Sample`: conversations about the picture, and the masks of their
targets in the order of their tokens. Randomness comes from a generator that belongs to the example.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from grounding_jax.data.sources.llava_instruct import VqaRecord
from grounding_jax.data.sources.reasonseg import TARGET, ReasonRecord
from grounding_jax.data.sources.refer import Record
from grounding_jax.data.sources.semantic import ClassRecord
from grounding_jax.files.regular import File
from grounding_jax.language.conversation import talk_rounds
from grounding_jax.training.mixture import Unusable
from gsva_jax import prompts
from gsva_jax.prompts import Round


class Sample(NamedTuple):
    """What is learned about one picture.

    Attributes:
        image: the picture file.
        conversations: each a list of rounds; branches of one row.
        masks: bool ``[n, H, W]``, one per [SEG] and [REJ] of all conversations in turn; zero at [REJ].
    """

    image: File
    conversations: list[list[Round]]
    masks: np.ndarray


def list_sample(
    image: File,
    targets: Sequence[str],
    masks: np.ndarray,
    joiner: str,
    rng: np.random.Generator,
    rejection: bool = True,
) -> Sample:
    """One conversation about all targets; one whose mask is empty is rejected.

    A model without [REJ] (LISA) has a conversation for each target instead, and learns an empty mask as it is.

    Raises:
        Unusable: there is no target, or all are rejected.
    """
    if not len(targets):
        raise Unusable("there is no target")
    if not rejection:
        return Sample(image, [[_single_round(target, rng)] for target in targets], masks)
    rejected = ~masks.any((1, 2))
    if rejected.all():
        raise Unusable("no target is in the picture")
    question = prompts.list_question(targets, int(rng.integers(len(prompts.LIST_QUESTIONS))))
    answer = prompts.list_answer(targets, rejected, int(rng.integers(len(prompts.LIST_ANSWERS))), joiner)
    return Sample(image, [[(question, answer)]], masks)


def _single_round(target: str, rng: np.random.Generator) -> Round:
    """A question for one target, and its answer."""
    question = prompts.single_question(target, False, int(rng.integers(len(prompts.SHORT_QUESTIONS))))
    return question, prompts.single_answer(int(rng.integers(len(prompts.SINGLE_ANSWERS))))


def sample_expressions(record: Record, rng: np.random.Generator, max_targets: int, rejection: bool = True) -> Sample:
    """Some of an image's expressions, without replacement, in the order drawn."""
    drawn = rng.permutation(len(record.raw_expressions))[:max_targets]
    targets = [prompts.clean_sentence(record.raw_expressions[j]) for j in drawn]
    return list_sample(record.image, targets, record.masks_of(drawn), prompts.RES_JOINER, rng, rejection)


def sample_classes(
    record: ClassRecord,
    rng: np.random.Generator,
    max_targets: int,
    classes: Sequence[str] = (),
    negative_share: float = 0.0,
    rejection: bool = True,
) -> Sample:
    """Some of an image's classes or parts; each is replaced by a class that is not there with a probability.

    Args:
        record: the image.
        rng: random generator of the example.
        max_targets: the most that are drawn.
        classes: names that are not in the picture unless it has them; none, and nothing is replaced.
        negative_share: the probability; the release has 0, where [REJ] is learned from gRefCOCO alone.
        rejection: see `list_sample`.

    Raises:
        Unusable: nothing is annotated.
    """
    drawn = rng.permutation(len(record.wordings))[:max_targets]
    targets = [defused_choice(record.wordings[j], rng) for j in drawn]
    masks = record.masks_of(drawn)
    present = {name for wordings in record.wordings for name in wordings}
    absent = [name for name in classes if name not in present]
    swapped = np.flatnonzero(rng.random(len(drawn)) < negative_share)[: len(absent)]
    for j, k in zip(swapped, rng.permutation(len(absent)), strict=False):
        targets[j] = prompts.defuse(absent[k])
        masks[j] = False
    return list_sample(record.image, targets, masks, prompts.SEMSEG_JOINER, rng, rejection)


def defused_choice(wordings: Sequence[str], rng: np.random.Generator) -> str:
    """One of several names for a target."""
    return prompts.defuse(wordings[int(rng.integers(len(wordings)))])


# Of the pictures of ReasonSeg with an explanation: asked for words alone.
TEXT_ONLY_SHARE = 0.1


def sample_reasoning(record: ReasonRecord, rng: np.random.Generator, max_targets: int) -> Sample:
    """Some of an image's instructions, one conversation each; they share the mask."""
    drawn = rng.permutation(len(record.raw_expressions))[:max_targets]
    texts = [prompts.defuse(record.raw_expressions[j]).strip() for j in drawn]
    if record.explanation is not None and rng.random() < TEXT_ONLY_SHARE:
        answer = prompts.defuse(record.explanation)
        rounds = [[(prompts.explanatory_question(text, None), answer)] for text in texts]
        return Sample(record.image, rounds, np.zeros((0, *record.size), bool))
    rounds = [[_reasoning_round(record, text, rng)] for text in texts]
    # What is to be ignored is background in training, as in the release.
    return Sample(record.image, rounds, np.repeat((record.label == TARGET)[None], len(texts), axis=0))


def _reasoning_round(record: ReasonRecord, text: str, rng: np.random.Generator) -> Round:
    """A question and its answer, explained half of the times where there is an explanation."""
    answer = int(rng.integers(len(prompts.SINGLE_ANSWERS)))
    if record.explanation is not None and rng.random() < 0.5:
        question = prompts.explanatory_question(text, int(rng.integers(len(prompts.EXPLANATORY_REQUESTS))))
        return question, prompts.single_answer(answer, prompts.defuse(record.explanation))
    wordings = prompts.LONG_QUESTIONS if record.is_sentence else prompts.SHORT_QUESTIONS
    question = prompts.single_question(text, record.is_sentence, int(rng.integers(len(wordings))))
    return question, prompts.single_answer(answer)


def sample_talk(record: VqaRecord) -> Sample:
    """A conversation of LLaVA-Instruct, without masks."""
    return Sample(record.image, [talk_rounds(record.turns)], np.zeros((0, 1, 1), bool))


def draw_sample(
    record: Record | ClassRecord | ReasonRecord | VqaRecord,
    rng: np.random.Generator,
    max_targets: int,
    classes: Sequence[str] = (),
    negative_share: float = 0.0,
    rejection: bool = True,
) -> Sample:
    """The sampler of a record's kind; see there."""
    if isinstance(record, Record):
        return sample_expressions(record, rng, max_targets, rejection)
    if isinstance(record, ReasonRecord):
        return sample_reasoning(record, rng, max_targets)
    if isinstance(record, VqaRecord):
        return sample_talk(record)
    return sample_classes(record, rng, max_targets, classes, negative_share, rejection)
