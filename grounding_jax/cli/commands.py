"""What `gsva` and `gella` do alike: choosing a command, running it, and importing."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import operator
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from grounding_jax import __version__
from grounding_jax.terminal import copying, one_line, quiet_libraries, say

if TYPE_CHECKING:
    from grounding_jax.sharding.mesh import MeshShape
    from grounding_jax.weights.checkpoint import Checkpoint

_REGISTRY = ConstructorRegistry()


class Command(Protocol):
    """A dataclass of options, whose docstring is the help, and the function that uses them."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def run(self) -> int:
        """Does what was asked; returns the exit code."""


class ImportCommand(Command, Protocol):
    """A command that imports weights in one of several formats."""

    @property
    def format(self) -> str:
        """Name of the format."""

    @property
    def weights(self) -> tuple[str, ...]:
        """Files and folders of weights."""


class Format(NamedTuple):
    """What an import of a format takes: files and folders before the options, and options that it needs or may have."""

    sources: tuple[str, ...]
    needed: tuple[str, ...]
    possible: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class MeshOptions:
    """The fields of a `MeshShape`, whose module needs JAX.

    Attributes:
        data: copies of the model on the devices of a host, each asked about a part of the pictures; -1 as many as there
            can be, for a single picture one.
        fsdp: devices that share one copy of the weights, each keeping a part of every layer; these are gathered before
            a layer runs, which takes less memory and more time. Each is asked about a part of the pictures.
        tensor: devices that share the work of every layer, as tensor parallelism does; each keeps its part of the
            weights, and all are asked about the same pictures.
    """

    data: Annotated[int, tyro.conf.arg(metavar="N")] = -1
    fsdp: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    tensor: Annotated[int, tyro.conf.arg(metavar="N")] = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnMesh:
    """A command whose model may take several devices.

    Attributes:
        mesh: layout of the devices.
    """

    mesh: MeshOptions = MeshOptions()

    def mesh_shape(self) -> MeshShape:
        """How the devices are laid out."""
        from grounding_jax.sharding.mesh import MeshShape

        return MeshShape(self.mesh.data, self.mesh.fsdp, self.mesh.tensor)

    def mesh_for(self, num_pictures: int) -> MeshShape | None:
        """The same for some pictures; None, a device alone, where copies could only repeat what it does."""
        return None if self.mesh == MeshOptions() and num_pictures == 1 else self.mesh_shape()


@dataclasses.dataclass(frozen=True)
class Packing:
    """A command that packs datasets.

    Attributes:
        root: the folder of all datasets (docs/data.md).
        out: the packed folder, local; copy it to gs:// when it is complete.
        datasets: names of the datasets to pack; by default all that are there.
        workers: number of datasets packed at the same time.
    """

    root: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ROOT")]
    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]
    _: dataclasses.KW_ONLY
    datasets: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...", help_behavior_hint="")] = ()
    workers: Annotated[int, tyro.conf.arg(metavar="N")] = 4

    def pack(self, usual: Sequence[str]) -> int:
        """Packs, by default the usual ones, and says how it ended for each dataset; the exit code."""
        from grounding_jax.cli.datasets import pack_datasets

        num, whole = pack_datasets(self.root, self.out, self.datasets or usual, self.workers)
        return int(whole < num if self.datasets else not whole)


@dataclasses.dataclass(frozen=True)
class Composing:
    """A command that composes scenes.

    Attributes:
        out: folder for the data; other splits that are there stay.
        num: number of scenes.
        seed: a seed gives the same scenes everywhere.
        split: each has photographs of its own as backgrounds.
        size: side of the pictures in pixels, 32 to 2048.
    """

    out: Annotated[str, tyro.conf.arg(metavar="DIR")]
    num: Annotated[int, tyro.conf.arg(metavar="N")]
    seed: Annotated[int, tyro.conf.arg(metavar="S")]
    split: Literal["train", "val", "test"]
    size: Annotated[int, tyro.conf.arg(metavar="PIXELS")] = 320


def run_command(program: str, parse: Callable[[list[str]], Command], argv: Sequence[str] | None) -> int:
    """Runs one command, or prints the version; an error is one line and libraries are quiet.

    PROGRAM_DEBUG=1 shows instead where an error came from, and what libraries say.

    Args:
        program: its name.
        parse: the words to a command.
        argv: the words after the name; those of the shell if None.

    Returns:
        The exit code: that of the command, 2 after an error, 130 after Ctrl-C.

    Raises:
        SystemExit: the words are no command (2), or ask for help (0).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        print(f"{program} {__version__} (jax {importlib.metadata.version('jax')}, Python {platform.python_version()})")
        return 0
    debugging = os.environ.get(f"{program.upper()}_DEBUG", "0") != "0"
    if not debugging:
        quiet_libraries()
    try:
        command = parse(words)
        _check_filled(command)
        return command.run()
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as error:
        if debugging:
            raise
        print(f"{program}: error: {one_line(error)}", file=sys.stderr)
        return 2


def parse_command(program: str, commands: Mapping[str, type[Command]], description: str, argv: list[str]) -> Command:
    """The command that is asked for, with its options.

    One with ``overrides`` gets there what it does not know; and "--help" too, if more is said than that.
    """
    if not argv or argv[0] not in commands:
        listed = (
            Annotated[command, tyro.conf.subcommand(name, description=command.__doc__.partition("\n")[0])]
            for name, command in commands.items()
        )
        return tyro.cli(functools.reduce(operator.or_, listed), prog=program, description=description, args=argv)
    command = commands[argv[0]]
    config = (tyro.conf.FlagCreatePairsOff,)
    options = dict(prog=f"{program} {argv[0]}", args=argv[1:], config=config, registry=_REGISTRY)
    if "overrides" not in {field.name for field in dataclasses.fields(command)}:
        return tyro.cli(command, **options)
    helps = [word for word in argv[1:] if word in ("-h", "--help")]
    if helps and len(argv) > 1 + len(helps):
        options["args"] = [word for word in argv[1:] if word not in helps]
    known, others = tyro.cli(command, **options, return_unknown_args=True)
    return dataclasses.replace(known, overrides=(*others, *helps))


@_REGISTRY.primitive_rule
def _without_none(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """What may be left out takes the words of its type and no other: "None" is not how it is left out."""
    given = [kind for kind in get_args(info.type) if kind is not NoneType]
    if len(given) != 1 or NoneType not in get_args(info.type):
        return None
    info = dataclasses.replace(info, type=given[0], type_origin=get_origin(given[0]))
    spec = ConstructorRegistry.get_primitive_spec(info)
    if not isinstance(spec, PrimitiveConstructorSpec):
        return None
    return dataclasses.replace(
        spec,
        is_instance=lambda value: value is None or spec.is_instance(value),
        str_from_instance=lambda value: [] if value is None else spec.str_from_instance(value),
    )


def _check_filled(command: Any) -> None:
    """Raises ValueError where a word is empty: as a path, it would mean the current folder."""
    for field in dataclasses.fields(command):
        value = getattr(command, field.name)
        if dataclasses.is_dataclass(value):
            _check_filled(value)
        elif value == "":
            name = field.name.replace("_", "-")
            raise ValueError(f"{name} is empty: give it a value; '.' is the current folder")


def check_format(program: str, formats: Mapping[str, Format], command: ImportCommand) -> None:
    """Checks what is given to an import.

    Args:
        program: its name.
        formats: the sources and options of each format.
        command: has ``format``, ``weights``, the files and folders, and options that are None unless they are given.

    Raises:
        ValueError: there are files or options that the format lacks or does not know.
    """
    sources, needed, possible = formats[command.format]
    if len(command.weights) != len(sources):
        wanted = " ".join(sources) or "no file or folder before the options"
        raise ValueError(f"--format {command.format} takes {wanted}; there are {len(command.weights)}")
    for name in (field.name for field in dataclasses.fields(command) if field.default is None):
        given, option = getattr(command, name) is not None, f"--{name.replace('_', '-')}"
        if name in needed and not given:
            raise ValueError(f"--format {command.format} needs {option}; see {program} import --help")
        if given and name not in (*needed, *possible):
            raise ValueError(f"--format {command.format} has no use for {option}")


def save_model(opened: Checkpoint, out: str) -> None:
    """Writes the model folder of an import, and says what was found, made or left out."""
    with copying(f"writing {out}") as progress:
        report = opened.save(out, progress)
    for line in report:
        say(f"  {line}")
    say(f"the model folder {out} is complete")
