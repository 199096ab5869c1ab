"""`gsva evaluate` and `gsva train`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from tyro.conf import arg

from grounding_jax.cli.commands import OnMesh
from grounding_jax.cli.training import Training
from grounding_jax.terminal import Dtype, optional, show_report
from gsva_jax.cli.loading import load_model


@dataclasses.dataclass(frozen=True)
class Evaluate(OnMesh):
    """Measure a model on one split of a dataset.

    Protocols: official is the published arithmetic, to compare with papers (the right answer's wording is given);
    guided gives the wording that follows from the expressions, as `gsva segment` does; generated lets the model write
    the whole answer. An interrupted evaluation goes on where it stopped when it is called again. Started on several
    hosts, they share the pictures; the files must be where all of them see them. Each host uses all its devices, with a
    copy of the model on each; one that is too large for that is split by --mesh.tensor or --mesh.fsdp.

    For example:
      gsva evaluate --data SCENES --dataset "grefcoco|unc|testA" --protocol generated --json numbers.json
      gsva evaluate --checkpoint CKPT --data DATA --dataset "ReasonSeg|val" --protocol official --json numbers.json
      gsva evaluate --checkpoint CKPT --data DATA --dataset "ade20k|validation" --protocol official --markdown table.md

    Attributes:
        data: the folder that holds refer_seg/, reason_seg/, ade20k/, coco/ or lists of your own; or a packed folder.
        dataset: name, division and split, such as "grefcoco|unc|val"; name and split of "ReasonSeg|val",
            "ade20k|validation" and "png|val2017", the phrases of captions, each asked for alone, as `gella evaluate`
            measures them; or "jsonl|FILE", a list of your own below ROOT (docs/data.md).
        protocol: way to ask the model; never compare numbers of different ones.
        checkpoint: a model folder, or the name of a shipped model.
        json: file for the numbers, all fractions.
        predictions: file for every single prediction, one line of JSON each.
        markdown: file for a table with published numbers beside ours, in percent.
        gallery: file for a page (HTML) that shows the best, the worst and some other pictures.
        question: wording of the official protocol's question about several expressions: "What are", as for the
            published numbers, "Where are", "Show me" or "Outline".
        batch_size: pictures at once; the numbers do not depend on it.
        blind: show a grey picture instead: what the text alone gives away.
        dtype: floating-point type of the weights and the computation; by default float32 on CPU and bfloat16 elsewhere.
    """

    data: Annotated[str, arg(metavar="ROOT")]
    dataset: Annotated[str, arg(metavar='"grefcoco|unc|val"')]
    protocol: Literal["official", "guided", "generated"]
    checkpoint: Annotated[str, arg(metavar="CKPT")] = "tiny"
    json: Annotated[str | None, optional("FILE")] = None
    predictions: Annotated[str | None, optional("FILE")] = None
    markdown: Annotated[str | None, optional("FILE")] = None
    gallery: Annotated[str | None, optional("FILE")] = None
    question: Literal["what", "where", "show", "outline"] = "what"
    batch_size: Annotated[int, arg(metavar="N")] = 8
    blind: bool = False
    dtype: Dtype = None

    def run(self) -> int:
        """Evaluates, prints the numbers, and writes them."""
        from grounding_jax.cli.outputs import prepare_outputs
        from grounding_jax.data.datasets import open_dataset
        from grounding_jax.data.sources.own_data import OWN_DATA
        from grounding_jax.sharding import hosts
        from gsva_jax.evaluation.published import markdown_table
        from gsva_jax.evaluation.run import check_dataset, evaluate

        hosts.start()
        check_dataset(self.dataset, self.protocol, self.question)
        if self.dataset.startswith(OWN_DATA):
            open_dataset(self.data, self.dataset)  # says what is wrong with it, before a model is loaded
        if hosts.is_first():
            named = {"--json": self.json, "--predictions": self.predictions}
            prepare_outputs({**named, "--markdown": self.markdown, "--gallery": self.gallery}, self.data)
        report = evaluate(
            load_model(self.checkpoint, self.dtype, self.mesh_shape()),
            self.data,
            self.dataset,
            self.protocol,
            self.json,
            self.predictions,
            markdown=self.markdown,
            gallery=self.gallery,
            question=self.question,
            batch_size=self.batch_size,
            blind=self.blind,
        )
        if hosts.is_first():
            show_report(report, markdown_table(report) if self.markdown else None)
        return 0


@dataclasses.dataclass(frozen=True)
class Train(Training):
    """Train what a config describes; called again, it goes on from the newest checkpoint.

    Checkpoints and the log go to RUNS/name of the config, the trained model folder to RUNS/name of the config/model.
    Everything in a config can be changed by an option, as in --learning-rate 1e-4; `gsva train CONFIG --help` lists
    them. SIGTERM saves and ends with exit status 75. RUNS/name@STEP is a checkpoint for the other commands.

    For example:
      gsva train gsva_tiny_eyes
      gsva train configs/gsva/gsva_tiny.py --init CKPT --learning-rate 3e-4
    """

    def run(self) -> int:
        """Trains; on several hosts, each runs the same command."""
        from grounding_jax.sharding import hosts
        from gsva_jax.training.experiment import GSVA

        hosts.start()
        return self.train(GSVA)
