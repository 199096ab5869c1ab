"""How long one caption takes, LISA against GELLA, part by part: Table 12b of the GELLA paper, measured again.

    python benchmarks/time_table.py                  the sizes of our tiny models, in minutes on a CPU
    python benchmarks/time_table.py --model 7b       those of the paper; random weights of 15 GB in bfloat16

One picture on one device, programs compiled before, medians over turns. Columns are those of cost_table.md: the
language model (LLM), the encoders of pictures and colormaps (IME), the decoders of masks (MMD); of ours, ResoBlend and
the matching of queries with masks stand by themselves. The paper tells neither its device nor what an answer is; here
the LLM is there twice: as one pass over all n tokens ("given": the nouns are known), and as a prompt and its answer,
written token by token ("written"). LISA encodes the picture once, and reads, writes and decodes once for every noun:
one such run is measured, and counts as often as there are nouns.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro

from gella_jax import model as gella_model
from gella_jax import resoblend
from gella_jax import steps as gella_steps
from gella_jax.colormap import normalize_colormap
from gella_jax.config import GellaConfig
from grounding_jax.inference.generation import generate_embedded
from grounding_jax.models import llama, mask2former, swin
from grounding_jax.models.llama import LlamaConfig
from gsva_jax import model as gsva_model
from gsva_jax import steps as gsva_steps
from gsva_jax.config import GsvaConfig

# LLM, IME, MMD, all, in seconds; LISA's first cell is missing, and is what is left of its sum.
PAPER = {"LISA-7B": (3.4, 1.9, 0.2, 5.5), "GELLA-7B": (3.2, 0.7, 0.3, 4.2)}
COLUMNS = ("LLM", "IME", "ResoBlend", "MMD", "matching")
NEVER = -1  # no token ends an answer: all of it is written
VOCABULARY = 1024  # of the tiny sizes


@dataclasses.dataclass(frozen=True)
class Options:
    """What a caption is, and what is measured.

    Attributes:
        model: sizes of both models.
        nouns: of the caption; the paper's Table 1 has twenty-one.
        tokens: n, of GELLA's one pass: patches, prompt and answer.
        written: those of them that it writes.
        lisa_tokens: n, of each of LISA's runs.
        lisa_written: those of them that it writes.
        side: S, of GELLA's colormap in pixels; the paper does not tell it. By default that of the sizes.
        turns: of which the medians are.
        dtype: of weights and computation.
    """

    model: Literal["tiny", "7b"] = "tiny"
    nouns: int = 21
    tokens: int = 877
    written: int = 110
    lisa_tokens: int = 329
    lisa_written: int = 8
    side: int | None = None
    turns: int = 5
    dtype: Literal["float32", "bfloat16"] = "bfloat16"


def drawn(init: Callable[[jax.Array], Any], dtype: str) -> Any:
    """Random arrays of the shapes that ``init`` gives, one after the other on the device."""
    shapes = jax.eval_shape(init, jax.random.key(0))
    draw = jax.jit(lambda key, shape: 0.02 * jax.random.normal(key, shape, dtype), static_argnums=1)
    return jax.tree.map(lambda leaf: draw(jax.random.key(leaf.size), leaf.shape), shapes)


def measured(turns: int, function: Callable, *arrays: Any) -> tuple[float, Any]:
    """Seconds of a function of arrays once it is compiled, and what it gives."""
    compiled, seconds = jax.jit(function), []
    result = jax.block_until_ready(compiled(*arrays))
    for _ in range(turns):
        begin = time.perf_counter()
        jax.block_until_ready(compiled(*arrays))
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds), result


def language(config: LlamaConfig, params: dict, options: Options, tokens: int, written: int) -> tuple[float, float]:
    """Seconds of one pass, and of a prompt with its answer."""
    x = jnp.ones((1, tokens, config.width), options.dtype)
    slots, branch = jnp.arange(tokens)[None], jnp.zeros((1, tokens), jnp.int32)
    prompt = tokens - written
    given, _ = measured(options.turns, lambda p, x: llama.decode(config, p, x, slots, branch)[0], params, x)
    writing, _ = measured(
        options.turns,
        lambda p, x: (
            generate_embedded(config, p, x, slots[:, :prompt], branch[:, :prompt], max_new=written, eos=NEVER).ids
        ),
        params,
        x[:, :prompt],
    )
    return given, writing


def _float32(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)


def gella(options: Options) -> dict[str, list[float]]:
    """Seconds of `COLUMNS` with given and with written nouns."""
    c = GellaConfig.gella_7b() if options.model == "7b" else GellaConfig.tiny(VOCABULARY)
    c = dataclasses.replace(c, side=options.side or c.side)
    params, turns, size = drawn(lambda key: gella_model.init(c, key), options.dtype), options.turns, c.clip.image_size
    picture, inside = jnp.zeros((1, size, size, 3), jnp.uint8), jnp.full((1, 2), size, jnp.int32)
    colormap = jnp.zeros((1, c.side, c.side, 3), jnp.uint8)
    # Vertical strips, as many as there are nouns, but no more than queries.
    masks = min(options.nouns, c.mask2former.queries)
    index = jnp.broadcast_to(1 + jnp.arange(c.side) * masks // c.side, (1, c.side, c.side)).astype(jnp.int32)

    def encode(p, picture, inside, colormap):
        features, patches = gella_steps.encode_image(c, p, picture, inside, options.dtype)
        return (
            features,
            patches,
            swin.pyramid(c.backbone, p["backbone"], normalize_colormap(colormap).astype(options.dtype)),
        )

    ime, (features, _, maps) = measured(turns, encode, params, picture, inside, colormap)
    blend, maps = measured(turns, lambda p, z, m: resoblend.blend(c.blend, p["blend"], z, m), params, features, maps)
    mmd, last = measured(turns, lambda p, m: mask2former.predict(c.mask2former, p["mask2former"], m)[0], params, maps)
    visible = jnp.ones((1, masks), bool)
    match, _ = measured(turns, lambda last: gella_steps.match(_float32(last), index, visible), last)
    llm = language(c.llama, params["llama"], options, options.tokens, options.written)
    return {kind: [seconds, ime, blend, mmd, match] for kind, seconds in zip(("given", "written"), llm, strict=True)}


def lisa(options: Options) -> dict[str, list[float | None]]:
    """The same of LISA, with a run for every noun."""
    c = GsvaConfig.gsva_7b() if options.model == "7b" else GsvaConfig.tiny(VOCABULARY)
    c = dataclasses.replace(c, llama=dataclasses.replace(c.llama, lora_rank=0))  # merged for inference
    params, turns = drawn(lambda key: gsva_model.init(c, key), options.dtype), options.turns
    sides = {"sam_images": c.sam.image_size, "clip_images": c.clip.image_size}
    pictures = {name: jnp.zeros((1, side, side, 3), jnp.uint8) for name, side in sides.items()}
    pictures["resized"] = jnp.full((1, 2), c.sam.image_size, jnp.int32)
    ime, (image, _) = measured(turns, lambda p, x: gsva_steps.encode_image(c, p, x, options.dtype), params, pictures)
    hidden = jnp.ones((1, 1, c.llama.width), options.dtype)
    mmd, _ = measured(turns, lambda p, h, image: gsva_steps.decode_masks(c, p, h, image), params, hidden, image)
    llm = language(c.llama, params["llama"], options, options.lisa_tokens, options.lisa_written)
    return {
        kind: [options.nouns * seconds, ime, None, options.nouns * mmd, None]
        for kind, seconds in zip(("given", "written"), llm, strict=True)
    }


def row(*cells: str | int | float | None) -> str:
    shown = ("" if cell is None else f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells)
    return f"| {' | '.join(shown)} |"


def table(options: Options) -> list[str]:
    """The lines of the table."""
    side = options.side or (800 if options.model == "7b" else GellaConfig.tiny(VOCABULARY).side)
    lines = [row("seconds", "S", "n", "nouns", "answer", *COLUMNS, "all"), f"|---|{'---:|' * 10}"]
    tokens = {
        "LISA": ("SAM", f"{options.nouns} x {options.lisa_tokens}", lisa),
        "GELLA": (side, options.tokens, gella),
    }
    for system, (size, n, measure) in tokens.items():
        llm, ime, mmd, total = PAPER[f"{system}-7B"]
        lines.append(row(f"{system}-7B, paper", "?", "?", "?", "?", llm, ime, None, mmd, None, total))
        for kind, columns in measure(options).items():
            name = f"{system}, sizes of {options.model}"
            lines.append(row(name, size, n, options.nouns, kind, *columns, sum(filter(None, columns))))
    return lines


def main(options: Options) -> None:
    """Prints the table."""
    device = jax.devices()[0]
    print(f"{device.device_kind} ({device.platform}), {options.dtype}, batch of 1, medians of {options.turns} turns\n")
    print("\n".join(table(options)))
    print(
        f"\nWritten: {options.written} of GELLA's tokens, {options.lisa_written} of each of LISA's runs. Resizing of "
        "masks and drawing of colormaps on the host are in no column."
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
