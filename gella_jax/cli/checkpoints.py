"""`gella import` and `gella export`: PyTorch checkpoints in, and back out."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from etils import epath
from tyro.conf import Positional, arg

from grounding_jax.cli.commands import Format, check_format, save_model
from grounding_jax.terminal import copying, optional, say

_PARTS = ("vision_tower", "mask2former", "backbone", "backbone_name", "preset", "sizes", "template", "seed")
_FORMATS = {"llava": Format((), ("language_model",), _PARTS), "exported": Format(("EXPORTED",), (), ())}


@dataclasses.dataclass(frozen=True)
class Import:
    """Make a model folder from PyTorch checkpoints; nothing in them is ever executed.

    llava: a new GELLA, to be trained, from LLaVA, CLIP, Mask2Former and a backbone. exported: what `gella export`
    wrote, as it was, whether or not PyTorch trained its parts in between.

    For example:
      gella import --format llava --language-model LLAVA --vision-tower CLIP --mask2former entity.pth --out CKPT
      gella import --format llava --language-model LLAVA_HF --backbone mobilenet_v2.pth --out CKPT
      gella import --format exported EXPORTED --out CKPT

    Attributes:
        weights: for exported, the folder that was exported.
        format: kind of the files that it is read from.
        out: the new model folder.
        language_model: a LLaVA or LLaVA-1.5 folder, of the original layout or Hugging Face's.
        vision_tower: CLIP's folder; only needed where the language model's has no tower.
        mask2former: Mask2Former or a model of EntitySeg with a Swin, detectron2's file or transformers' folder.
        backbone: a Swin or a MobileNetV2, instead of the Swin in there.
        backbone_name: swin_t, swin_l or mobilenet_v2: takes the Swin of --mask2former only if it is that one, else
            makes it fresh; without any Swin, a Swin-T.
        preset: variant of ResoBlend: skip (the default), paper, mask_query or literal.
        sizes: a JSON file with what shapes can't tell: heads, image sizes, LoRA, colours, template ...
        template: conversation template: vicuna_v1 (the default) or plain.
        seed: random seed of the weights that are new; 0 by default.
    """

    weights: Annotated[Positional[tuple[str, ...]], optional("EXPORTED")] = ()
    _: dataclasses.KW_ONLY
    format: Literal["llava", "exported"]
    out: Annotated[str, arg(metavar="CKPT")]
    language_model: Annotated[str | None, optional("DIR")] = None
    vision_tower: Annotated[str | None, optional("DIR")] = None
    mask2former: Annotated[str | None, optional("FILE")] = None
    backbone: Annotated[str | None, optional("FILE")] = None
    backbone_name: Annotated[str | None, optional("NAME")] = None
    preset: Annotated[str | None, optional("NAME")] = None
    sizes: Annotated[str | None, optional("JSON")] = None
    template: Annotated[str | None, optional("NAME")] = None
    seed: Annotated[int | None, optional("S")] = None

    def run(self) -> int:
        """Imports, and says what was found, made or left out."""
        check_format("gella", _FORMATS, self)
        from gella_jax import weights

        if self.format == "exported":
            save_model(weights.open_exported(self.weights[0]), self.out)
            return 0
        opened = weights.open_parts(
            self.language_model,
            self.vision_tower,
            self.mask2former,
            self.backbone,
            backbone_name=self.backbone_name,
            preset=self.preset or "skip",
            sizes=self.sizes,
            template=self.template,
            seed=self.seed or 0,
        )
        save_model(opened, self.out)
        return 0


@dataclasses.dataclass(frozen=True)
class Export:
    """Write the parts of a model folder for PyTorch code; what was imported comes out bit for bit.

    original: llava/, clip/ and mask2former.pth, as their releases have them. hf: llava/ and mask2former/, as Hugging
    Face's transformers read them. What no public code knows is in gella/. Nothing that exists is overwritten.

    For example:
      gella export CKPT --format original --out EXPORTED
      gella export CKPT --format hf --merge-lora --out EXPORTED

    Attributes:
        checkpoint: a model folder.
        format: the layout.
        out: a folder.
        merge_lora: fold LoRA into the weights of the language model.
    """

    checkpoint: Annotated[Positional[str], arg(metavar="CKPT")]
    _: dataclasses.KW_ONLY
    format: Literal["original", "hf"]
    out: Annotated[str, arg(metavar="DIR")]
    merge_lora: bool = False

    def run(self) -> int:
        """Exports."""
        from gella_jax.loading import find_checkpoint
        from gella_jax.weights import export

        with copying(f"writing {self.out}") as progress:
            export(find_checkpoint(self.checkpoint), self.format, epath.Path(self.out), self.merge_lora, progress)
        say(f"{self.out} is complete")
        return 0
