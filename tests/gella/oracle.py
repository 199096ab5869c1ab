"""A stand-in for a GELLA that knows the truth of a dataset, and answers with it."""

import types

import numpy as np

from gella_jax.panoptic import PanopticAnswer, Segment
from gella_jax.predict import Grounding, Noun, Reference
from tests.small_gella import small_tokenizer


class Oracle:
    """Knows the truth of a dataset, and answers with it."""

    segmenter = None

    def __init__(self, source):
        self.of = {str(record.image_id): record for record in map(source.__getitem__, range(len(source)))}
        self.captions = (
            {record.caption: record for record in map(source.__getitem__, range(len(source)))}
            if hasattr(source[0], "caption")
            else {}
        )
        self.engine = types.SimpleNamespace(
            config=types.SimpleNamespace(to_json=lambda: "oracle"),
            dtype=np.float32,
            params={"x": np.zeros((1, 1), np.float32)},
            tokenizer=small_tokenizer(),
            batcher=types.SimpleNamespace(multiple=1),
        )
        self.asked = []

    def fits(self, caption, nouns=None):
        return True

    def ground_many(self, requests, output_masks="input", plurals=None):
        self.asked.append(plurals)
        groundings = []
        for request in requests:
            record = self.captions.get(request.caption)
            texts = request.nouns or (record.raw_expressions if record else ())
            nouns = [Noun(text, None, (), np.zeros(0), self._mask(request, record, j)) for j, text in enumerate(texts)]
            left_out = {"hidden": (0,), "surplus": (1, 2)}
            groundings.append(Grounding("", request.caption, tuple(nouns), request.entities, left_out))
        return groundings

    def _mask(self, request, record, j):
        if record is not None:
            return record.masks[j]
        record = self.of[request.image_id]
        return record.masks[record.expressions.index(request.caption)]

    def refer_many(self, requests, output_masks):
        self.asked += requests
        return [Reference("", "", (), None, 1.0, self._mask(request, None, 0)) for request in requests]

    def panoptic_many(self, requests, categories, output_masks):
        maps = []
        for request in requests:
            record = self.of[request.image_id]
            known = {category.id: category for category in categories}
            segments = [Segment(s["id"], known[s["category_id"]], 1.0) for s in record.segments]
            maps.append(PanopticAnswer(record.id_map, tuple(segments)))
        return maps

    def entities_many(self, requests):
        return [(request.entities, {"hidden": (3,)}) for request in requests]
