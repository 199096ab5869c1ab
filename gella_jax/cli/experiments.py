"""`gella evaluate` and `gella train`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from tyro.conf import arg

from gella_jax.cli.loading import load_model, load_segmenter
from grounding_jax.cli.commands import OnMesh
from grounding_jax.cli.training import Training
from grounding_jax.terminal import Dtype, optional, say, show_report


@dataclasses.dataclass(frozen=True)
class Evaluate(OnMesh):
    """Measure a model on one split of a dataset, with anybody's masks.

    Narratives are measured by average recall, expressions by IoU, categories by panoptic quality, entities by average
    precision. Protocols: official is the benchmark's own way, which for narratives gives the nouns and knows which mean
    several segments; guided gives the nouns and no more; generated lets the model name the nouns. Categories and
    entities have the official one only. Whose masks the model gets has to be said, unless it finds them itself: with
    those of the dataset, numbers are of another task than with predicted ones. Without a checkpoint, masks of entities
    are measured as they are put in. An interrupted evaluation goes on where it stopped, and several hosts share one.

    For example:
      gella evaluate --checkpoint CKPT --data ROOT --dataset "png|val2017" --protocol generated --masks MASKS
      gella evaluate --checkpoint CKPT --data ROOT --dataset "refcoco|unc|val" --protocol generated --masks truth
      gella evaluate --checkpoint CKPT --data ROOT --dataset "panoptic|val2017" --protocol official --segmenter M2F.pth
      gella evaluate --data ROOT --dataset "coco_entity|val2017" --protocol official --masks MASKS --json numbers.json

    Attributes:
        data: the folder that holds coco/, refer_seg/ or entityseg/.
        dataset: such as "png|val2017", "refcoco|unc|val", "panoptic|val2017", "entityseg|val", "coco_entity|val2017".
        protocol: way to ask the model; never compare numbers of different ones.
        checkpoint: a model folder, or the name of a shipped model; by default "tiny", but no model at all for a dataset
            of entities, whose masks are measured as they are put in.
        masks: whose masks the model gets: a folder with STEM.png, STEM.json or a folder STEM for the picture STEM.jpg,
            or a json about all pictures; "truth" for those of the dataset, of expressions all instances in the picture.
        segmenter: a SAM or a Mask2Former that makes them instead.
        output_masks: answer with the masks that were put in, or with those the model makes of them; by default the
            latter for datasets of entities, the former for all others.
        json: file for the numbers, all fractions.
        predictions: file for every single prediction, one line of JSON each.
        markdown: file for tables with published numbers beside ours, in percent.
        gallery: file for a page (HTML) that shows the best, the worst and some other pictures.
        batch_size: pictures at once; the numbers do not depend on it.
        dtype: floating-point type of the weights and the computation; by default float32 on CPU and bfloat16 elsewhere.
    """

    data: Annotated[str, arg(metavar="ROOT")]
    dataset: Annotated[str, arg(metavar='"png|val2017"')]
    protocol: Literal["official", "guided", "generated"]
    checkpoint: Annotated[str | None, optional("CKPT")] = None
    masks: Annotated[str | None, optional("SOURCE")] = None
    segmenter: Annotated[str | None, optional("FILE")] = None
    output_masks: Annotated[Literal["input", "decoded"] | None, optional("{input,decoded}")] = None
    json: Annotated[str | None, optional("FILE")] = None
    predictions: Annotated[str | None, optional("FILE")] = None
    markdown: Annotated[str | None, optional("FILE")] = None
    gallery: Annotated[str | None, optional("FILE")] = None
    batch_size: Annotated[int, arg(metavar="N")] = 4
    dtype: Dtype = None

    def run(self) -> int:
        """Evaluates, prints the numbers, and writes them."""
        from gella_jax.evaluation.masks import whose_masks
        from gella_jax.evaluation.published import markdown_table
        from gella_jax.evaluation.run import check_dataset, evaluate
        from gella_jax.evaluation.tasks import measures_masks
        from grounding_jax.cli.outputs import prepare_outputs
        from grounding_jax.sharding import hosts

        hosts.start()
        measures = measures_masks(self.dataset) and self.output_masks != "decoded"
        checkpoint = self.checkpoint or (None if measures else "tiny")
        check_dataset(self.dataset, self.protocol, self.output_masks, with_model=checkpoint is not None)
        if self.segmenter and self.masks:
            raise ValueError("name either --masks or --segmenter: both say whose masks the model gets")
        if hosts.is_first():
            named = {"--json": self.json, "--predictions": self.predictions}
            prepare_outputs({**named, "--markdown": self.markdown, "--gallery": self.gallery}, self.data)
        segmenter = gella = None
        if self.segmenter:
            segmenter = load_segmenter(self.segmenter, self.dtype, self.mesh_shape())
        if checkpoint:
            gella = load_model(checkpoint, self.dtype, self.mesh_shape())
        report = evaluate(
            gella,
            self.data,
            self.dataset,
            self.protocol,
            self.json,
            self.predictions,
            masks=self.segmenter or self.masks,
            segmenter=segmenter,
            markdown=self.markdown,
            gallery=self.gallery,
            output_masks=self.output_masks,
            batch_size=self.batch_size,
        )
        if hosts.is_first():
            say(whose_masks(report))
            show_report(report, markdown_table(report) if self.markdown else None)
        return 0


@dataclasses.dataclass(frozen=True)
class Train(Training):
    """Train what a config describes; called again, it goes on from the newest checkpoint.

    Checkpoints and the log go to RUNS/name of the config, the trained model folder to RUNS/name of the config/model.
    Everything in a config can be changed by an option, as in --learning-rate 1e-4; `gella train CONFIG --help` lists
    them. SIGTERM saves and ends with exit status 75. RUNS/name@STEP is a checkpoint for the other commands.

    For example:
      gella train gella_7b --init START --data DATA
      gella train configs/gella/gella_7b.py --init START --data DATA --llm full
    """

    def run(self) -> int:
        """Trains; on several hosts, each runs the same command."""
        from gella_jax.training.experiment import GELLA
        from grounding_jax.sharding import hosts

        hosts.start()
        return self.train(GELLA)
