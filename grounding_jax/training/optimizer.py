"""AdamW with its schedules, and learning rates that differ by parameter."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from grounding_jax.training.options import TrainOptions
from grounding_jax.training.state import path_matcher


def make_schedule(options: TrainOptions) -> optax.Schedule:
    """The learning rate of update k.

    "linear" rises from 0 and falls to ``final_rate``; "cosine" falls in a half wave; "deepspeed" is what the release
    really did (spec gsva e): update 0 has the full rate and update k that of update k - 1 of "linear".
    """
    peak, warm, steps = options.learning_rate, options.warmup_steps, options.steps
    final = peak * options.final_rate
    rise = optax.linear_schedule(0.0, peak, warm) if warm else optax.constant_schedule(peak)
    if options.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, peak, warm, steps, final)
    linear = optax.join_schedules([rise, optax.linear_schedule(peak, final, steps - warm)], [warm])
    if options.schedule == "linear":
        return linear
    return lambda step: jnp.where(step == 0, peak, linear(step - 1))


def make_optimizer(options: TrainOptions) -> optax.GradientTransformation:
    """AdamW behind a global-norm clip, with a slower rate for some parameters."""
    is_slow = path_matcher(options.slow)

    def rates(params: dict) -> dict:
        return jax.tree.map_with_path(
            lambda path, _: options.slow_rate if is_slow("/".join(key.key for key in path)) else 1.0, params
        )

    # Not optax.masked, which puts a level into the optimizer's state: checkpoints without it could not be restored.
    slow_down = optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, rates(updates)))
    adamw = optax.adamw(make_schedule(options), options.b1, options.b2, weight_decay=options.weight_decay)
    return optax.chain(optax.clip_by_global_norm(options.clip_norm), adamw, slow_down)
