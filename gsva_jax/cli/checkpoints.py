"""`gsva import` and `gsva export`: PyTorch checkpoints in, and back out."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

from etils import epath
from tyro.conf import Positional, arg

from grounding_jax.cli.commands import Format, check_format, save_model
from grounding_jax.terminal import copying, optional, say

if TYPE_CHECKING:
    from gsva_jax.weights import Checkpoint

_FORMATS = {
    "official": Format(("WEIGHTS",), ("language_model",), ("vision_tower", "sizes", "template")),
    "lisa": Format(("WEIGHTS",), ("language_model", "vision_tower"), ("sizes", "template")),
    "llava": Format((), ("language_model", "vision_tower", "sam"), ("sizes", "template", "seed")),
    "llava-delta": Format(("BASE", "DELTA"), (), ("vision_tower", "sam", "sizes", "template", "seed")),
}


@dataclasses.dataclass(frozen=True)
class Import:
    """Make a model folder from PyTorch checkpoints; nothing in them is ever executed.

    official: a gsva-*.bin. lisa: a folder in LISA's layout. llava: a new GSVA, to be trained, from LLaVA, CLIP and SAM.
    llava-delta: the same where LLaVA is published as a difference (DELTA) to LLaMA (BASE); without --vision-tower and
    --sam, it only writes the LLaVA folder.

    For example:
      gsva import --format official gsva-7b.bin --language-model LLAVA --vision-tower CLIP --out CKPT
      gsva import --format lisa LISA --language-model LISA --vision-tower CLIP --out CKPT
      gsva import --format llava --language-model LLAVA --vision-tower CLIP --sam sam_vit_h_4b8939.pth --out CKPT
      gsva import --format llava-delta LLAMA LLAVA_DELTA --out LLAVA

    Attributes:
        weights: for official and lisa, the checkpoint; for llava-delta, BASE and DELTA.
        format: kind of the files that it is read from.
        out: the new model folder.
        language_model: LLaVA's folder: tokenizer and config.json; for llava, also the weights.
        vision_tower: CLIP's folder; for official, which has these weights itself, only its config.json is read.
        sam: SAM's sam_vit_*.pth.
        sizes: a JSON file with what shapes can't tell: heads, window, eps, image sizes, LoRA alpha ...
        template: conversation template: llava_v1 (the default), llava_llama_2 or plain.
        seed: random seed of the weights that are new in a new GSVA; 0 by default.
    """

    weights: Annotated[Positional[tuple[str, ...]], optional("WEIGHTS|BASE DELTA")] = ()
    _: dataclasses.KW_ONLY
    format: Literal["official", "lisa", "llava", "llava-delta"]
    out: Annotated[str, arg(metavar="CKPT")]
    language_model: Annotated[str | None, optional("DIR")] = None
    vision_tower: Annotated[str | None, optional("DIR")] = None
    sam: Annotated[str | None, optional("FILE")] = None
    sizes: Annotated[str | None, optional("JSON")] = None
    template: Annotated[str | None, optional("NAME")] = None
    seed: Annotated[int | None, optional("S")] = None

    def run(self) -> int:
        """Imports, and says what was found, made or left out."""
        check_format("gsva", _FORMATS, self)
        if self.format == "llava-delta" and (self.vision_tower is None) != (self.sam is None):
            raise ValueError("--format llava-delta takes --vision-tower and --sam together, or neither")
        if self.format == "llava-delta" and not (self.vision_tower and self.sam):
            from grounding_jax.weights.delta import write_delta

            with copying(f"writing {self.out}") as progress:
                write_delta(*self.weights, self.out, progress)
            say(f"the LLaVA folder {self.out} is complete")
            return 0
        save_model(self._open(), self.out)
        return 0

    def _open(self) -> Checkpoint:
        from gsva_jax import weights

        shared = dict(sizes=self.sizes, template=self.template)
        if self.format == "official":
            return weights.open_official(self.weights[0], self.language_model, self.vision_tower, **shared)
        if self.format == "lisa":
            return weights.open_lisa(self.weights[0], self.language_model, self.vision_tower, **shared)
        base, llava = self.weights if self.weights else (None, self.language_model)
        return weights.open_llava(llava, self.vision_tower, self.sam, base=base, seed=self.seed or 0, **shared)


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a model folder as a PyTorch checkpoint; what was imported comes out bit for bit.

    official: one file like gsva-7b.bin. lisa: a folder in LISA's layout, with LoRA folded into the weights and
    without the vision tower. Nothing that exists is overwritten.

    For example:
      gsva export CKPT --format official --out gsva.bin
      gsva export CKPT --format lisa --out LISA

    Attributes:
        checkpoint: a model folder, or the name of a shipped model.
        format: the layout.
        out: for official a file, for lisa a folder.
        merge_lora: fold LoRA into the weights in an official file, too.
    """

    checkpoint: Annotated[Positional[str], arg(metavar="CKPT")]
    _: dataclasses.KW_ONLY
    format: Literal["official", "lisa"]
    out: Annotated[str, arg(metavar="FILE_OR_DIR")]
    merge_lora: bool = False

    def run(self) -> int:
        """Exports."""
        from gsva_jax.loading import find_checkpoint
        from gsva_jax.weights import export

        with copying(f"writing {self.out}") as progress:
            export(
                find_checkpoint(self.checkpoint), self.format, epath.Path(self.out), self.merge_lora or None, progress
            )
        say(f"{self.out} is complete")
        return 0
