"""AdamW with its schedules, and learning rates that differ by parameter."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from grounding_jax.training.options import TrainOptions
from grounding_jax.training.state import path_matcher


def make_schedule(options: TrainOptions) -> optax.Schedule:
    """The learning rate of update k.

    "linear" rises from 0 and falls to ``final_rate``; "cosine" falls in a half wave; "deepspeed" is what the release
    really did (spec gsva e): update 0 has the full rate and update k that of update k - 1 of "linear"; "steps" falls to
    a tenth behind each of the ``drops``.
    """
    peak, warm, steps = options.learning_rate, options.warmup_steps, options.steps
    rise = optax.linear_schedule(0.0, peak, warm) if warm else optax.constant_schedule(peak)
    left = max(steps - warm, 1)  # a training may end while the rate still rises
    if options.schedule == "cosine":
        return optax.join_schedules([rise, optax.cosine_decay_schedule(peak, left, options.final_rate)], [warm])
    if options.schedule == "steps":
        after = collections.Counter(round(share * steps) for share in options.drops)  # of few updates, two may be one
        falls = {update: 0.1**times for update, times in after.items()}
        return lambda step: rise(step) * optax.piecewise_constant_schedule(1.0, falls)(step)
    fall = optax.linear_schedule(peak, peak * options.final_rate, left)
    linear = optax.join_schedules([rise, fall], [warm])
    if options.schedule == "linear":
        return linear
    return lambda step: jnp.where(step == 0, peak, linear(step - 1))


def make_optimizer(options: TrainOptions) -> optax.GradientTransformation:
    """AdamW behind a global-norm clip, with a slower rate for some parameters."""
    # Not optax.masked, which puts a level into the optimizer's state: checkpoints without it could not be restored.
    rates, decays = by_path(options.slow, options.slow_rate, 1.0), by_path(options.no_decay, 0.0, options.weight_decay)
    slow_down = optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, rates(updates)))
    decay = optax.stateless(
        lambda updates, params: jax.tree.map(lambda u, p, rate: u + rate * p, updates, params, decays(updates))
    )
    adamw = optax.chain(
        optax.scale_by_adam(options.b1, options.b2), decay, optax.scale_by_learning_rate(make_schedule(options))
    )
    return optax.chain(optax.clip_by_global_norm(options.clip_norm), adamw, slow_down)


def by_path(patterns: Sequence[str], inside: float, outside: float) -> Callable[[dict], dict]:
    """A function from a parameter tree to one number for each parameter: whether a pattern matches its path."""
    chosen = path_matcher(patterns)

    def numbers(tree: dict) -> dict:
        return jax.tree.map_with_path(
            lambda path, _: inside if chosen("/".join(key.key for key in path)) else outside, tree
        )

    return numbers
