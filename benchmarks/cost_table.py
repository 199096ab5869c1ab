"""What one caption costs, LISA-7B against GELLA-7B: Table 12 of the GELLA paper, counted again from sizes.

    python benchmarks/cost_table.py      prints the tables of cost_table.md in a minute, on a CPU, without weights

Every number is there as multiply-adds (MAC), as twice that, and as XLA counts our own program; the paper does not say
which of these it has. It has three columns: the language model (LLM), the encoders of pictures and masks (IME) and the
decoders of masks (MMD).
"""

from __future__ import annotations

import dataclasses
import functools
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax is imported

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from gella_jax import resoblend
from gella_jax.config import GellaConfig
from gella_jax.flops import backbone_flops, resoblend_flops
from gella_jax.resoblend import ResoBlendConfig
from grounding_jax.models import clip, llama, llava, mask2former, mobilenet, sam, swin
from grounding_jax.models.clip import ClipConfig
from grounding_jax.models.llama import LlamaConfig
from grounding_jax.models.mask2former import Mask2FormerConfig
from grounding_jax.models.mobilenet import MobileNetConfig
from grounding_jax.models.sam import SamConfig
from grounding_jax.models.swin import SwinConfig
from grounding_jax.planning.flops import (
    STRIDES,
    clip_flops,
    counted_by_xla,
    head_flops,
    llama_flops,
    mask_decoder_flops,
    pixel_decoder_flops,
    sam_encoder_flops,
    transformer_decoder_flops,
)
from gsva_jax.config import GsvaConfig

PAPER = {"LISA-7B": (92607, 3114, 226, 95947), "GELLA-7B": (11987, 204, 113, 12304)}  # LLM, IME, MMD, all
PAPER_MASKS = 541, 218  # GFLOPs and millions of parameters of Mask2Former Swin-L, which made the masks
MASK_SIDES = (768, 800)
PART_SIDES = (384, 512, 800, 832, 1024)
COUNTS = ("MAC", "2 x MAC", "XLA")
KEY = jax.random.key(0)


@dataclasses.dataclass(frozen=True)
class Options:
    """What a caption is.

    Attributes:
        nouns: of the caption; the paper's Table 1 has twenty-one. LISA reads the picture again for each.
        tokens: n, of GELLA's one pass: 576 patches, and text.
        lisa_tokens: n, of each of LISA's: 256 patches, and text.
        sides: S, of GELLA's colormap in pixels, which the paper does not tell.
    """

    nouns: int = 21
    tokens: int = 877
    lisa_tokens: int = 329
    sides: tuple[int, ...] = (384, 800, 832)


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def maps(channels: tuple[int, ...], side: int) -> list[jax.ShapeDtypeStruct]:
    """Of a backbone."""
    return [floats(1, -(-side // stride), -(-side // stride), C) for stride, C in zip(STRIDES, channels, strict=True)]


def cost(flops: int, init, function, *shapes) -> np.ndarray:
    """GFLOPs of a part as `COUNTS` has them, given its matrix products, and for XLA its parameters and itself."""
    return np.array([flops / 2, flops, counted_by_xla(function, jax.eval_shape(init), *shapes)]) / 1e9


@functools.cache
def language(config: LlamaConfig, tokens: int) -> np.ndarray:
    """Blocks and head, one pass over one row."""

    def run(params, x, slots):
        hidden, _ = llama.decode(config, params, x, slots, slots)
        return llama.logits(config, params, hidden)

    slots = jax.ShapeDtypeStruct((1, tokens), jnp.int32)
    flops = llama_flops(config, tokens) + head_flops(config, tokens)
    return cost(flops, lambda: llama.init(config, KEY), run, floats(1, tokens, config.width), slots)


@functools.cache
def vision(config: ClipConfig) -> np.ndarray:
    picture = floats(1, config.image_size, config.image_size, 3)
    run = functools.partial(clip.encode, config)
    return cost(clip_flops(config), lambda: clip.init(config, KEY), run, picture)


@functools.cache
def projector(config: GellaConfig) -> np.ndarray:
    """LLaVA-1.5's two layers."""
    P, C, D = config.clip.num_patches, config.clip.width, config.llama.width
    module, patches = llava.projector(config.projector, D), floats(1, P, C)
    return cost(2 * P * (C + D) * D, lambda: module.init(KEY, jnp.zeros((1, P, C))), module.apply, patches)


@functools.cache
def backbone(config: SwinConfig | MobileNetConfig, side: int) -> np.ndarray:
    model = swin if isinstance(config, SwinConfig) else mobilenet
    run = functools.partial(model.pyramid, config)
    return cost(backbone_flops(config, side), lambda: model.init(config, KEY), run, floats(1, side, side, 3))


@functools.cache
def blend(config: ResoBlendConfig, patches: int, side: int) -> np.ndarray:
    shapes = floats(1, patches, config.image_width), maps(config.channels, side)
    run = functools.partial(resoblend.blend, config)
    return cost(resoblend_flops(config, patches, side), lambda: resoblend.init(config, KEY), run, *shapes)


@functools.cache
def pixel_decoder(config: Mask2FormerConfig, side: int) -> np.ndarray:
    run = functools.partial(mask2former.decode_pixels, config)
    flops = pixel_decoder_flops(config, side)
    return cost(flops, lambda: mask2former.init(config, KEY), run, maps(config.channels, side))


@functools.cache
def transformer_decoder(config: Mask2FormerConfig, side: int, every_layer: bool = True) -> np.ndarray:
    fine, *coarse = maps((config.width,) * 4, side)

    def run(params, fine, coarse):
        last, earlier = mask2former.decode_queries(config, params, fine, coarse)
        return (last, earlier) if every_layer else last

    flops = transformer_decoder_flops(config, side, every_layer)
    return cost(flops, lambda: mask2former.init(config, KEY), run, fine, coarse[::-1])


@functools.cache
def sam_encoder(config: SamConfig) -> np.ndarray:
    def run(params, picture):
        return sam.encode_image(config, params, picture)[0]

    picture = floats(1, config.image_size, config.image_size, 3)
    return cost(sam_encoder_flops(config), lambda: sam.init(config, KEY), run, picture)


@functools.cache
def mask_decoder(config: SamConfig, masks: int) -> np.ndarray:
    def run(params, image, text):
        return sam.predict_masks(config, params, image, text=text)

    shapes = floats(masks, config.grid, config.grid, config.prompt_width), floats(masks, 1, config.prompt_width)
    return cost(masks * mask_decoder_flops(config), lambda: sam.init(config, KEY), run, *shapes)


def lisa_7b() -> GsvaConfig:
    """LISA has the sizes of GSVA and one target; LoRA is merged for inference."""
    config = GsvaConfig.gsva_7b()
    return dataclasses.replace(config, llama=dataclasses.replace(config.llama, lora_rank=0))


def lisa(options: Options) -> tuple[np.ndarray, ...]:
    """LLM, IME, ResoBlend and MMD: a pass and a mask for every noun, the picture encoded once."""
    config, nouns = lisa_7b(), options.nouns
    encoders = vision(config.clip) + sam_encoder(config.sam)
    passes = nouns * language(config.llama, options.lisa_tokens)
    return passes, encoders, np.zeros(3), mask_decoder(config.sam, nouns)


def gella(options: Options, side: int) -> tuple[np.ndarray, ...]:
    """LLM, IME, ResoBlend and MMD: one pass, whatever the number of nouns."""
    c = GellaConfig.gella_7b()
    encoders = vision(c.clip) + backbone(c.backbone, side)
    decoders = pixel_decoder(c.mask2former, side) + transformer_decoder(c.mask2former, side)
    blended = blend(c.blend, c.clip.num_patches, side)
    return language(c.llama, options.tokens), encoders, blended, decoders


def table(*header: str) -> None:
    print(f"\n| {' | '.join(header)} |\n|---|{'---:|' * (len(header) - 1)}", flush=True)


def row(*cells: object) -> None:
    shown = (f"{cell:.{1 if cell < 1000 else 0}f}" if isinstance(cell, float) else str(cell) for cell in cells)
    print(f"| {' | '.join(shown)} |", flush=True)


def print_columns(options: Options) -> None:
    """Table 12, with the numbers of the paper above ours."""
    table("GFLOPs", "S", "n", "nouns", "count", "LLM", "IME", "ResoBlend", "MMD", "all")
    print_model("LISA-7B", options, f"{options.nouns} x {options.lisa_tokens}", {"SAM: 1024": lisa(options)})
    print_model("GELLA-7B", options, options.tokens, {side: gella(options, side) for side in options.sides})


def print_model(model: str, options: Options, tokens: int | str, sizes: dict) -> None:
    """The rows of a model, given its four columns for each size of picture."""
    llm, encoders, decoders, total = PAPER[model]
    row(f"{model}, paper", "?", "?", "?", "?", llm, encoders, "?", decoders, total)
    for side, columns in sizes.items():
        for name, *counted in zip(COUNTS, *columns, strict=True):
            row(model, side, tokens, options.nouns, name, *counted, sum(counted))


def print_masks() -> None:
    """What making the masks costs before, with the two published kinds of Swin-L."""
    table("masks by Mask2Former Swin-L", "S", "million parameters", *(f"GFLOPs, {name}" for name in COUNTS))
    row("paper", "?", PAPER_MASKS[1], f"{PAPER_MASKS[0]} ?", "", "")
    kinds = {
        "COCO panoptic: windows of 12, 200 queries": (SwinConfig.large(), Mask2FormerConfig.coco_panoptic_swin_l()),
        "entities: windows of 7, 100 queries": (
            SwinConfig.large(window=7),
            Mask2FormerConfig.entity(channels=Mask2FormerConfig.coco_panoptic_swin_l().channels),
        ),
    }
    for name, (trunk, heads) in kinds.items():
        trees = jax.eval_shape(lambda trunk=trunk, heads=heads: (swin.init(trunk, KEY), mask2former.init(heads, KEY)))
        parameters = sum(leaf.size for leaf in jax.tree.leaves(trees)) / 1e6
        for side in MASK_SIDES:
            total = backbone(trunk, side) + pixel_decoder(heads, side) + transformer_decoder(heads, side)
            row(name, side, parameters, *total)


def print_parts() -> None:
    """The parts that depend on S, by the formulas."""
    small, mobile = GellaConfig.gella_7b(), GellaConfig.gella_7b("mobilenet_v2")
    P, decoders = small.clip.num_patches, small.mask2former
    wide = dataclasses.replace(small.blend, width=1024, hidden=4096)
    table(
        "MAC in G at S", "Swin-T", "MobileNetV2", "Swin-L, windows of 7", "pixel decoder", "transformer decoder",
        "last masks only", "ResoBlend on Swin-T", "on MobileNetV2", "on Swin-T, width 1024, hidden 4096",
    )  # fmt: skip
    for side in PART_SIDES:
        trunks = (small.backbone, mobile.backbone, SwinConfig.large(window=7))
        flops = [backbone_flops(trunk, side) for trunk in trunks]
        flops += [pixel_decoder_flops(decoders, side)]
        flops += [transformer_decoder_flops(decoders, side, every_layer) for every_layer in (True, False)]
        flops += [resoblend_flops(config, P, side) for config in (small.blend, mobile.blend, wide)]
        row(side, *(count / 2e9 for count in flops))


def print_against_xla(options: Options, side: int) -> None:
    """Every part of both models: formulas and XLA."""
    table("part", *(f"GFLOPs, {name}" for name in COUNTS), "XLA / 2 x MAC")
    g, l = GellaConfig.gella_7b(), lisa_7b()
    parts = {
        f"LLaMA-7B, n = {options.tokens}": language(g.llama, options.tokens),
        f"LLaMA-7B, n = {options.lisa_tokens}": language(l.llama, options.lisa_tokens),
        "CLIP ViT-L/14, 336": vision(g.clip),
        "CLIP ViT-L/14, 224": vision(l.clip),
        "projector of LLaVA-1.5 (in no column)": projector(g),
        f"Swin-T, S = {side}": backbone(g.backbone, side),
        f"MobileNetV2, S = {side}": backbone(GellaConfig.gella_7b("mobilenet_v2").backbone, side),
        f"ResoBlend on Swin-T, S = {side}": blend(g.blend, g.clip.num_patches, side),
        f"pixel decoder, S = {side}": pixel_decoder(g.mask2former, side),
        f"transformer decoder, S = {side}": transformer_decoder(g.mask2former, side),
        f"transformer decoder, last masks only, S = {side}": transformer_decoder(g.mask2former, side, False),
        "SAM ViT-H, 1024": sam_encoder(l.sam),
        f"SAM's mask decoder, {options.nouns} masks": mask_decoder(l.sam, options.nouns),
    }
    for name, counted in parts.items():
        row(name, *counted, f"{counted[2] / counted[1]:.3f}")
    fine, *coarse = maps((g.mask2former.width,) * 4, side)
    resized = counted_by_xla(lambda x: [jax.image.resize(x, to.shape, "linear", False) for to in coarse], fine)
    print(f"\nOf XLA's transformer decoder, {resized / 1e9:.1f} are resizing, which is a product of matrices there.")


def tokens_for(config: LlamaConfig, gflops: float) -> float:
    """How many tokens take so much, counted as 2 x MAC: the formula is a n + b n^2."""
    one, two = (llama_flops(config, n) + head_flops(config, n) for n in (1, 2))
    b = (two - 2 * one) / 2
    return max(np.roots([b, one - b, -gflops * 1e9]).real)


def fitting(flops, gmac: float) -> int:
    """The side, a multiple of 32, whose count is nearest."""
    return min(range(32, 1537, 32), key=lambda side: abs(flops(side) / 2e9 - gmac))


def decoders_flops(side: int) -> int:
    """GELLA's decoders, as `gella` has them."""
    config = GellaConfig.gella_7b().mask2former
    return pixel_decoder_flops(config, side) + transformer_decoder_flops(config, side, every_layer=True)


def print_findings(options: Options) -> None:
    """What the counts say about the paper's."""
    g, l, nouns = GellaConfig.gella_7b(), lisa_7b(), options.nouns
    (lisa_llm, lisa_ime, lisa_mmd, lisa_all), (llm, ime, mmd, total) = PAPER["LISA-7B"], PAPER["GELLA-7B"]
    n, n_mac, n_lisa = (tokens_for(g.llama, gflops) for gflops in (llm, 2 * llm, lisa_llm / nouns))
    tower, encoders, masks = vision(g.clip)[0], lisa(options)[1][0], mask_decoder(l.sam, nouns)
    trunk = functools.partial(backbone_flops, g.backbone)
    swin_side, side = fitting(trunk, ime - tower), fitting(decoders_flops, mmd)
    ratios = (sum(lisa(options))[1] / sum(gella(options, side))[1] for side in options.sides)
    findings = (
        f"LLM, GELLA: {llm} are 2 x MAC of n = {n:.1f} tokens: {g.clip.num_patches} patches, and text. As MAC, n would "
        f"be {n_mac:.0f}.",
        f"LLM, LISA: {lisa_llm} are {nouns} passes, one for each noun, of 2 x MAC of n = {n_lisa:.1f} tokens: "
        f"{l.clip.num_patches} patches, and text.",
        f"IME, LISA: SAM and CLIP are {encoders:.0f} as MAC, {encoders / lisa_ime - 1:+.1%} from {lisa_ime}.",
        f"IME, GELLA: CLIP is {tower:.1f} as MAC. Of {ime}, {ime - tower:.1f} are left; a Swin-T comes nearest at "
        f"S = {swin_side}, {trunk(swin_side) / 2e9:.1f}.",
        f"MMD, GELLA: the two decoders come nearest to {mmd} at S = {side}, {decoders_flops(side) / 2e9:.1f} as MAC.",
        f"MMD, LISA: {nouns} masks by SAM's decoder are {masks[0]:.0f} as MAC and {masks[1]:.0f} as 2 x MAC; "
        f"{lisa_mmd} is not reproduced.",
        f"So the paper's LLM is 2 x MAC and its IME and MMD are MAC. S is not determined: IME fits {swin_side}, MMD "
        f"{side}, of the multiples of 32.",
        f"LISA / GELLA: {lisa_all / total:.2f} in the paper; with every column as 2 x MAC "
        + ", ".join(f"{ratio:.2f} at S = {side}" for ratio, side in zip(ratios, options.sides, strict=True))
        + ".",
    )
    print("\n" + "\n".join(f"- {finding}" for finding in findings))


def main(options: Options) -> None:
    """Prints all tables."""
    print_columns(options)
    print_masks()
    print_parts()
    print_against_xla(options, 800)
    print_findings(options)


if __name__ == "__main__":
    main(tyro.cli(Options))
