"""The whole loss, L_seg + L_asso + L_ans, and its gradients against a GELLA put together in torch (spec gella b).

The model is that of `test_composed`; the loss is written here, from the text of the specification alone. Both sides
compare masks at the same random points.
"""

from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from gella_jax import losses, model
from gella_jax.colormap import repeatable_rng
from gella_jax.data import arrays
from gella_jax.losses import LossWeights
from gella_jax.matching import SegmentationWeights
from gella_jax.training.recipe import LANGUAGE_MODEL, MASK_BRANCH, REST
from grounding_jax.data.entity_masks import Entities
from grounding_jax.language.rows import IGNORED
from grounding_jax.training.state import combine, partition, path_matcher
from grounding_jax.weights import folder
from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.tables import llava
from grounding_jax.weights.tables import mask2former as mask2former_weights
from tests.gella import test_composed as composed
from tests.gella.test_composed import CONFIG, IMAGE_ID, SEG, VARIANTS
from tests.gella.test_resoblend import table as blend_table
from tests.small_gella import small_picture
from tests.torch_reference import parameters

theirs, params, pictures = composed.theirs, composed.params, composed.batch  # fixtures

NAME = "skip"
WEIGHTS = LossWeights(0.5, 3.0, 2.0, SegmentationWeights(points=64))
LAYERS = CONFIG.mask2former.decoder_layers + 1
# Per picture and noun, the masks that it means, or whether it is absent. The last mask of the second is hidden.
MEANT = [[(0, 1), (3,), ()], [(2,), (3,)]]
ABSENT = [[False, False, True], [False, False]]
KEYS = jax.random.split(jax.random.key(5), 2)


@pytest.fixture(scope="module")
def batch(pictures) -> dict[str, np.ndarray]:
    """Pictures and texts with the truth about them, prepared."""
    added = []
    for seed, size in enumerate(((50, 70), (64, 40))):
        _, masks = small_picture(seed, size)
        entities = Entities(masks, tuple(range(len(masks))), ("",) * len(masks))
        added.append(arrays.entity_arrays(CONFIG, entities, MEANT[seed], 3, repeatable_rng(str(seed), seed=0)))
    truth = {name: np.stack([each[name] for each in added]) for name in added[0]}
    np.testing.assert_array_equal(truth["colormaps"], pictures["colormaps"])
    absent = np.array([[*each, False][:3] for each in ABSENT])
    text = pictures["text"]
    labels = np.full_like(text, IGNORED)
    following = text[:, 1:]
    labels[:, :-1] = np.where((following > 0) & (following != IMAGE_ID), following, IGNORED)
    whole = {**pictures, **truth, "absent": absent, "segmented": np.ones(2, bool), "labels": labels}
    return {**losses.prepare(WEIGHTS, whole, CONFIG.mask2former.queries)}


def at(maps: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """``maps [N, H, W], points [N, P, 2] -> [N, P]``, bilinear."""
    return F.grid_sample(maps[:, None], 2 * points[:, None] - 1, align_corners=False)[:, 0, 0]


def compared(logits: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """BCE and dice of ``[..., P]``."""
    bce = F.binary_cross_entropy_with_logits(logits, truth.expand_as(logits), reduction="none").mean(-1)
    p = logits.sigmoid()
    return bce, 1 - (2 * (p * truth).sum(-1) + 1) / (p.sum(-1) + truth.sum(-1) + 1)


def match(logits, classes, masks, points) -> tuple[np.ndarray, np.ndarray]:
    """Queries and their masks, by the least total cost."""
    values, truth = (at(maps, points.expand(len(maps), -1, -1)) for maps in (logits, masks))
    bce, dice = compared(values[:, None].expand(-1, len(truth), -1), truth[None])
    cost = 5 * bce + 5 * dice - 2 * classes.softmax(-1)[:, :1]
    return linear_sum_assignment(cost.detach())


def their_segmentation(predictions, masks, points) -> tuple[dict[str, torch.Tensor], list[np.ndarray]]:
    """The terms of L_seg, and of each picture the query of each mask in the last layer."""
    P, terms, weights = WEIGHTS.terms.points, {"classes": 0.0, "mask": 0.0, "dice": 0.0}, torch.tensor([1.0, 0.1])
    for prediction, drawn in zip(predictions, points, strict=True):
        drawn = [torch.tensor(np.asarray(x)) for x in drawn]
        sums, counts, found = torch.zeros(3), torch.zeros(2), []
        for b, truth in enumerate(masks):
            logits, classes = prediction.mask_logits[b], prediction.class_logits[b]
            queries, order = match(logits, classes, truth, drawn[0][b])
            labels = torch.ones(len(classes), dtype=torch.long)
            labels[queries] = 0
            cross_entropy = F.cross_entropy(classes, labels, weights, reduction="sum")
            own, candidates = logits[queries], drawn[1][b, order]
            chosen = at(own, candidates).abs().topk(P - P // 4, largest=False).indices
            places = torch.cat([candidates.gather(1, chosen[..., None].expand(-1, -1, 2)), drawn[2][b, order]], 1)
            bce, dice = compared(at(own, places), at(truth[order], places))
            sums = sums + torch.stack([cross_entropy, bce.sum(), dice.sum()])
            counts = counts + torch.tensor([weights[labels].sum(), len(truth)])
            found.append(queries[np.argsort(order)])
        for name, weight, total, count in zip(terms, (2, 5, 5), sums, counts[[0, 1, 1]], strict=True):
            terms[name] = terms[name] + weight * total / count
    return terms, found


def their_loss(theirs, batch, points) -> dict[str, torch.Tensor]:
    """All terms, weighted; "loss" is their sum as in eq. 5 and 10."""
    text, pixels = torch.from_numpy(batch["text"]).long(), composed.clip_pixels(batch)
    with torch.no_grad():
        features = theirs.llava.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    inputs = dict(input_ids=text, attention_mask=(text > 0).long(), pixel_values=pixels)
    read = theirs.llava(**inputs, output_hidden_states=True)
    colours = composed.normalized(batch["colormaps"], (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    maps = theirs.mask2former.model.pixel_level_module.encoder(colours).feature_maps
    predictions = composed.their_queries(theirs, composed.their_blend(theirs.weights, features, maps, False, True))
    index, visible = torch.from_numpy(np.asarray(batch["index"])), np.asarray(batch["visible"])
    masks = [(index[b] == torch.arange(1, visible[b].sum() + 1)[:, None, None]).float() for b in range(2)]
    terms, queries = their_segmentation(predictions, masks, points)

    told = []
    for b, (meant, absent) in enumerate(zip(MEANT, ABSENT, strict=True)):
        slots = (text[b] == SEG).nonzero()[:, 0] - int(VARIANTS[NAME].seg_state == "predicting")
        nouns = read.hidden_states[-1][b, slots]
        kind = VARIANTS[NAME].association.kind
        logits = composed.their_association(theirs.weights, kind, nouns, predictions[-1].queries[b])
        for row, those, none in zip(logits, meant, absent, strict=True):
            wanted = torch.zeros_like(row)
            seen = [mask for mask in those if mask < len(queries[b])]
            wanted[queries[b][seen]] = 1
            if seen or none:
                told.append(F.binary_cross_entropy_with_logits(row, wanted))
    labels = torch.from_numpy(np.asarray(batch["labels"])).long()
    answer = F.cross_entropy(read.logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    association = torch.stack(told).mean()
    loss = WEIGHTS.segmentation * sum(terms.values()) + WEIGHTS.association * association + WEIGHTS.answer * answer
    terms |= {"association": WEIGHTS.association * association, "answer": WEIGHTS.answer * answer}
    return {**terms, "loss": loss}


def their_gradients(theirs, path: Path) -> dict:
    """In our layout. Modules are saved with gradients in place of their weights, so that files have public names."""
    trees = []
    tables = (llava.transformers() + llava.transformers_tower(), mask2former_weights.transformers_with_swin())
    for module, table in zip((theirs.llava, theirs.mask2former), tables, strict=True):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
        module.save_pretrained(path / type(module).__name__)
        leaves = table.to_ours(open_weights(path / type(module).__name__), "gradients")
        trees.append(folder.to_params(leaves, np.dtype(np.float32)))
    drawn = {name: weight.grad for name, weight in theirs.weights.items() if weight.grad is not None}
    missing = {name: torch.zeros_like(weight) for name, weight in theirs.weights.items() if weight.grad is None}
    kind = VARIANTS[NAME].association.kind
    association = {
        ours: {f"fc{i + 1}": linear(drawn, f"assoc.{kind}.{side}.{i}") for i in range(2)}
        for ours, side in (("text", "text"), ("query", "entity"))
    }
    language, masks = trees
    branch = {"backbone": masks.pop("backbone"), "mask2former": masks}
    return {**language, **branch, "blend": parameters(blend_table(), drawn | missing), "association": association}


def linear(weights: dict, name: str) -> dict[str, np.ndarray]:
    return {"kernel": weights[f"{name}.weight"].numpy().T, "bias": weights[f"{name}.bias"].numpy()}


@pytest.fixture(scope="module")
def points() -> list:
    return jax.device_get(losses.layer_points(WEIGHTS.terms, KEYS, LAYERS, CONFIG.mask2former.queries))


@pytest.fixture(scope="module")
def wanted(theirs, batch, points, tmp_path_factory) -> tuple[dict, dict]:
    """Terms and gradients."""
    theirs = theirs._replace(weights={name: x.clone().requires_grad_() for name, x in theirs.weights.items()})
    terms = their_loss(theirs, batch, points)
    terms["loss"].backward()
    return {name: term.item() for name, term in terms.items()}, their_gradients(
        theirs, tmp_path_factory.mktemp("gradients")
    )


@pytest.fixture(scope="module")
def found(params, batch) -> tuple[dict, dict]:
    """Terms and gradients of everything that is trained where the language model is."""
    chosen = path_matcher((*MASK_BRANCH, *REST, *LANGUAGE_MODEL["full"]))
    trained, frozen = partition(params[VARIANTS[NAME].association.kind], chosen)

    def run(trained, frozen, batch):
        outputs = model.forward(VARIANTS[NAME], combine(frozen, trained), batch)
        loss, terms, _ = losses.batch_loss(WEIGHTS, outputs, batch, KEYS)
        return loss, {**terms, "loss": loss}

    given = {name: x for name, x in batch.items() if name != "text"}
    run = jax.jit(jax.grad(run, has_aux=True), compiler_options=composed.QUICK)
    gradients, terms = jax.device_get(run(trained, frozen, given))
    return terms, gradients


def test_terms(wanted, found):
    assert found[0].keys() == wanted[0].keys()
    for name, value in wanted[0].items():
        assert value > 0
        np.testing.assert_allclose(found[0][name], value, rtol=1e-4, err_msg=name)


def test_gradients(wanted, found):
    """Of every parameter that is trained."""
    ours, theirs = (
        {path: np.asarray(leaf.read()) for path, leaf in folder.from_params(side[1]).items()}
        for side in (found, wanted)
    )
    assert {path.partition("/")[0] for path in ours} == {
        "llama", "projector", "backbone", "blend", "mask2former", "association"
    }  # fmt: skip
    for path, leaf in ours.items():
        # Single entries may be next to nothing beside the largest of the leaf, and those of keys' biases are rounding.
        atol = max(1e-4 * np.abs(theirs[path]).max(), 1e-6)
        np.testing.assert_allclose(leaf, theirs[path], rtol=1e-3, atol=atol, err_msg=path)
    norm = np.sqrt(sum(np.square(theirs[path], dtype=np.float64).sum() for path in ours))
    np.testing.assert_allclose(
        np.sqrt(sum(np.square(x, dtype=np.float64).sum() for x in ours.values())), norm, rtol=1e-3
    )
