"""One update, as a pure function: the loss of a batch in micro-batches, its gradient, and the optimizer's step."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from optax.microbatching import AccumulationType, microbatch

from grounding_jax.training.state import State, combine
from grounding_jax.training.task import Task

Update = Callable[[State, dict, dict], tuple[State, dict[str, jax.Array]]]


def make_update(task: Task, optimizer: optax.GradientTransformation, accumulate: int = 1, seed: int = 0) -> Update:
    """The update ``(state, frozen parameters, batch) -> (state, scalars)``, to be jitted with a donated state.

    Scalars are those of the task, ``loss``, ``grad_norm``, ``update_norm``, ``skipped`` (so far) and ``bad_in_a_row``.
    Where the loss or the gradient is not finite, nothing changes but the counters. The randomness of an update is a
    function of (seed, step).
    """

    def update(state: State, frozen: dict, batch: dict) -> tuple[State, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)

        def objective(params: dict, part: dict):
            loss, scalars = task.loss(combine(frozen, params), part, key)
            return loss, {"loss": loss, **scalars}

        batch = task.prepare(batch)
        gradient_of = jax.grad(objective, has_aux=True)
        if accumulate > 1:
            # A micro-batch takes every accumulate-th row, so that each device cuts its own rows.
            rows = len(jax.tree.leaves(batch)[0]) // accumulate
            gradient_of = microbatch(gradient_of, 1, rows, AccumulationType.MEAN)
        gradient, scalars = gradient_of(state.params, batch)
        norm = optax.tree.norm(gradient)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        good = jnp.isfinite(scalars["loss"]) & jnp.isfinite(norm)
        kept = (optax.apply_updates(state.params, updates), opt_state)
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(good, new, old), kept, (state.params, state.opt_state)
        )
        skipped, bad = state.skipped + ~good, jnp.where(good, 0, state.bad_in_a_row + 1)
        counters = {"skipped": skipped, "bad_in_a_row": bad}
        scalars = {**scalars, "grad_norm": norm, "update_norm": optax.tree.norm(updates), **counters}
        return State(state.step + 1, params, opt_state, skipped, bad), scalars

    return update
