"""Losses as sums over counts: against a slow loop, and the same number however a batch is cut."""

import numpy as np
import pytest

from grounding_jax.language.rows import IGNORED
from grounding_jax.training.losses import cross_entropy, group_weights, token_counts

B, T, V, GROUP = 8, 5, 7, 4


def make_batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, labels and token weights; the first group has nothing to predict."""
    rng = np.random.default_rng(0)
    logits, weight = rng.normal(size=(B, T, V)).astype(np.float32), rng.random((B, T)).astype(np.float32)
    labels = np.where(rng.random((B, T)) < 0.3, IGNORED, rng.integers(0, V, (B, T)))
    labels[:GROUP] = IGNORED
    return logits, labels, weight


def test_the_loss_is_the_mean_over_groups_of_sum_over_count():
    logits, labels, weight = make_batch()
    groups = []
    for start in range(0, B, GROUP):
        total = count = 0.0
        for b in range(start, start + GROUP):
            for t in np.flatnonzero(labels[b] != IGNORED):
                share = np.exp(logits[b, t], dtype=np.float64)
                total -= weight[b, t] * np.log(share[labels[b, t]] / share.sum())
                count += weight[b, t]
        groups.append(total / count if count else 0.0)
    rows = group_weights(token_counts(labels, weight), GROUP) * cross_entropy(logits, labels, weight)
    assert groups[0] == 0 and groups[1] > 0.5
    np.testing.assert_allclose(rows.mean(), np.mean(groups), rtol=1e-6)


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_the_mean_over_micro_batches_is_that_of_the_batch(parts):
    """Also where a group spans micro-batches: its weights are those of the whole batch."""
    logits, labels, _ = make_batch()
    weights = group_weights(token_counts(labels), GROUP)
    whole = (weights * cross_entropy(logits, labels)).mean()
    means = [(weights[i::parts] * cross_entropy(logits[i::parts], labels[i::parts])).mean() for i in range(parts)]
    np.testing.assert_allclose(np.mean(means), whole, rtol=1e-6)


def test_groups_must_divide_the_batch():
    with pytest.raises(ValueError, match="a batch of 8 examples is no multiple of the loss group of 3"):
        group_weights(np.ones(8), 3)
