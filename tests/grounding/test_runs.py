"""Run folders: their recipe is data, held against the next call, and nothing in them is executed."""

import dataclasses
import json
import shutil
import sys
from types import SimpleNamespace

import docstring_parser
import numpy as np
import pytest
from etils import epath

from grounding_jax.sharding.mesh import MeshShape
from grounding_jax.training import converted
from grounding_jax.training import experiment as experiments
from grounding_jax.training.experiment import System, changed, debugged, fitted, run
from grounding_jax.training.loop import train
from grounding_jax.training.options import TrainOptions
from grounding_jax.training.run_folder import claim, decode
from grounding_jax.training.runs import find_model, model_at, origin_of, read_run
from grounding_jax.training.task import Recipe
from grounding_jax.weights import folder
from gsva_jax.cli import main
from gsva_jax.losses import LossWeights
from gsva_jax.training.experiment import GSVA, RECIPES, load_config
from tests.grounding.test_training import OPTIONS, Regression
from tests.programs import processes
from tests.small_training import write_config

pytestmark = pytest.mark.usefixtures("no_kept_programs")

CONFIGS = [path.stem for path in GSVA.config_files()]


@pytest.fixture
def identity():
    """What the run.json of a fresh run holds."""
    experiment = load_config("lisa_7b")
    origin = origin_of("lisa_7b", experiment.recipe, RECIPES, Regression(), [], "float32")
    return json.loads(json.dumps(dataclasses.asdict(experiment.options) | dataclasses.asdict(origin)))


def written(folder, identity):
    (folder / "run.json").write_text(json.dumps(identity))
    return folder


@pytest.mark.parametrize("name", CONFIGS)
def test_a_recipe_is_data(name):
    recipe = load_config(name).recipe
    assert type(recipe) in RECIPES.values()
    assert decode(type(recipe), json.loads(json.dumps(dataclasses.asdict(recipe))), "run.json") == recipe


def test_a_run_folder_says_what_it_is_a_run_of(tmp_path, identity):
    origin, recipe, options = read_run(written(tmp_path, identity), RECIPES)
    experiment = load_config("lisa_7b")
    assert (origin.config, origin.kind, origin.starts) == ("lisa_7b", "gsva", {})
    assert recipe == dataclasses.replace(experiment.recipe, validation="grefcoco|unc|val")  # may change: not kept
    assert (options.learning_rate, options.b2) == (3e-4, 0.95)


def test_code_in_a_run_folder_never_runs(tmp_path, identity, capsys):
    """Neither that of an older version, which kept a copy of its config there, nor any other."""
    for name in ("config.py", "recipe.py", "__init__.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'PWNED')!r}, 'w')")
    for content in ({}, identity):
        written(tmp_path, content)
        words = ["segment", "x.jpg", "x", "--checkpoint", f"{tmp_path}@5", "--out", tmp_path / "out"]
        assert main(list(map(str, words))) == 2
    with pytest.raises(ValueError, match=r"an older version began it: call `train` with its config once more"):
        model_at(written(tmp_path, {}), 5, RECIPES)
    assert capsys.readouterr().err.count("\n") == 2
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda data: data.update(kind="os.system"), "run.json: kind is 'os.system', should be one of gsva, "),
        (
            lambda data: data["recipe"].update(max_targets="5"),
            r"run.json, recipe at \$.max_targets: expected `int`, got `str`",
        ),
        (lambda data: data["recipe"].update(colour=5), r"run.json, recipe: unknown fields \$.colour"),
        (lambda data: data["recipe"]["families"][1].update(n=5), r"unknown fields \$.families\[1\].n"),
        (lambda data: data.update(result_dtype="int8"), r"run.json at \$.result_dtype: invalid enum value 'int8'"),
        (lambda data: data.update(starts=["a"]), r"run.json at \$.starts: expected `object`, got `array`"),
        (lambda data: data.update(seed=[0]), r"run.json at \$.seed: expected `int`, got `array`"),
    ],
)
def test_what_is_wrong_with_a_run_folder_is_named(tmp_path, identity, change, said):
    change(identity)
    with pytest.raises(ValueError, match=said):
        read_run(written(tmp_path, identity), RECIPES)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"kind": NaN}', "[" * 10**5, "\xff"])
def test_a_damaged_description_of_a_run_is_named(tmp_path, text):
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"run.json (is not valid JSON|at \$: expected `object`)"):
        read_run(tmp_path, RECIPES)


def test_a_run_of_an_older_version_goes_on_when_its_config_is_named(tmp_path, identity):
    """Its run.json had no kind; it is written down with the next call, unless that is another run."""
    older = {name: value for name, value in identity.items() if name not in ("kind", "result_dtype", "best_metric")}
    written(tmp_path, older)
    with pytest.raises(ValueError, match=r"a run with recipe.max_targets = 3, this one has 4"):
        claim(tmp_path, {**identity, "recipe": {**identity["recipe"], "max_targets": 4}})
    claim(tmp_path, identity)
    assert json.loads((tmp_path / "run.json").read_text()) == identity


def test_a_batch_is_checked_before_anything_is_loaded(tmp_path):
    with pytest.raises(ValueError, match="a batch of 7 in 10 micro-batches does not divide .* a multiple of 10"):
        run(GSVA, "gsva_7b_refzom", tmp_path / "runs", tmp_path / "no_model", ["--batch-size", "7", "--data", "none"])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_debug_run_fits_any_number_of_devices(name, monkeypatch):
    for devices in (1, 3, 8):
        monkeypatch.setattr(experiments.jax, "device_count", lambda n=devices: n)
        monkeypatch.setattr(
            experiments,
            "make_mesh",
            lambda shape, n=devices: SimpleNamespace(
                shape=dict(zip(("data", "fsdp", "tensor"), shape.resolve(n), strict=True))
            ),
        )
        options = fitted(debugged(load_config(name))).options
        sizes = options.mesh.resolve(devices)
        assert options.batch_size % (sizes[0] * sizes[1] * options.accumulate) == 0
        assert options.batch_size >= 2 * options.accumulate


@pytest.mark.parametrize("name", ["gsva_7b", "gsva_tiny_masks", "gsva_tiny"])
def test_help_lists_every_option_of_a_config(name, capsys):
    experiment = load_config(name)
    with pytest.raises(SystemExit) as ended:
        main(["train", name, "--help"])
    assert ended.value.code == 0
    listed = capsys.readouterr().out
    hidden = {"families", "trainable", "tokens", "model", "export_keys", "mesh", "weights"}
    for part in (experiment.options, experiment.recipe):
        for field in dataclasses.fields(part):
            assert (f"--{field.name.replace('_', '-')} " in listed.replace(",", " ")) != (field.name in hidden)
    assert "--mesh.fsdp" in listed and ("--weights.dice" in listed) == (name == "gsva_tiny")
    assert changed(experiment, ["--mesh.fsdp", "2"]).options.mesh.fsdp == 2


@pytest.mark.parametrize(
    "option, value, said",
    [
        ("--log-every", "0", "log_every is 0, should be a number from 1 to 2147483647"),
        ("--canvas", "0", "canvas is 0, should be a number from 1 to 2147483647"),
        ("--lora-dropout", "nan", "lora_dropout is nan, should be a number from 0 to 1"),
    ],
)
def test_a_number_that_can_not_be_is_one_line(option, value, said, capsys):
    assert main(["train", "gsva_7b", option, value]) == 2
    assert capsys.readouterr().err == f"gsva: error: {said}\n"


def test_a_run_folder_with_a_number_that_can_not_be(tmp_path, identity):
    identity["recipe"]["length"] = 0
    with pytest.raises(ValueError, match="run.json, recipe.* length is 0, should be a number from 1"):
        read_run(written(tmp_path, identity), RECIPES)


@pytest.mark.parametrize("described", [TrainOptions, MeshShape, LossWeights, *RECIPES.values()])
def test_a_description_says_what_a_thing_is(described):
    fields = {field.name for field in dataclasses.fields(described)}
    params = {
        name: text.description
        for text in docstring_parser.parse(described.__doc__).params
        for name in text.arg_name.split(", ")
    }
    assert fields == params.keys()
    for name, text in params.items():
        assert text.split()[0].lower() not in ("of", "what", "how", "whether"), name


@dataclasses.dataclass(frozen=True)
class Line(Regression, Recipe):
    """A recipe of another system: a task that is nothing but data."""

    def save_model(self, place, params):
        folder.save(place, folder.from_params(params), "{}")


LINE_CONFIG = """
import dataclasses
from grounding_jax.training.experiment import Experiment
from tests.grounding.test_runs import Line
from tests.grounding.test_training import OPTIONS

def get_config():
    return Experiment("line", Line(), dataclasses.replace(OPTIONS, keep_last=2), result_dtype="bfloat16")
"""


def test_any_system_trains_by_the_same_code(tmp_path):
    """Its own recipe and config folder; the result, and a step of the run as a model folder."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "line.py").write_text(LINE_CONFIG)
    other = System("other", {"line": Line}, tmp_path / "assets")
    result = run(other, "line", tmp_path / "runs")
    whole = train(Line(), OPTIONS, tmp_path / "alone")
    saved = folder.load(result)
    assert set(saved) == {"line", "slow", "frozen"} and saved["line"]["slope"].dtype == "bfloat16"
    np.testing.assert_array_equal(saved["line"]["slope"], whole["line"]["slope"].astype("bfloat16"))
    at = folder.load(find_model(f"{result.parent}@3", tmp_path, other.recipes))
    assert (at["line"]["slope"] != saved["line"]["slope"]).any()
    with pytest.raises(FileNotFoundError, match="none of its checkpoints has the score of a validation"):
        model_at(result.parent, None, other.recipes)
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 4; those there are: 3, 6"):
        model_at(result.parent, 4, other.recipes)
    with pytest.raises(ValueError, match="kind is 'line', should be one of gsva, "):
        model_at(result.parent, 3, RECIPES)
    with pytest.raises(ValueError, match="a Line is none of the recipes gsva, "):
        run(GSVA, tmp_path / "configs" / "line.py", tmp_path / "others")


@pytest.fixture
def continued(tmp_path, monkeypatch):
    """The system of `Line`, and a run of it whose start was named by a relative path; now we are elsewhere."""
    system = System("other", {"line": Line}, tmp_path / "assets")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "line.py").write_text(LINE_CONFIG)
    monkeypatch.chdir(tmp_path)
    for name in ("start", "another"):
        slope = np.full(3, len(name), np.float32)
        folder.save(name, folder.from_params({"line": {"slope": slope}}), "{}")
    result = run(system, "line", "runs", "start")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return system, epath.Path(tmp_path / result).parent


def test_a_run_finds_its_start_from_any_folder(continued):
    system, line = continued
    assert (find_model(f"{line}@3", line, system.recipes) / "config.json").exists()
    assert run(system, "line", line.parent, "../start") == line / "model"


def test_a_start_that_was_moved_is_the_same(continued):
    """Where it lies now is written down; the model folder of a step is still that of the run."""
    system, line = continued
    made = find_model(f"{line}@3", line, system.recipes)
    moved = (line.parent.parent / "start").rename(line.parent.parent / "moved")
    assert run(system, "line", line.parent, moved) == line / "model"
    assert json.loads((line / "run.json").read_text())["starts"].keys() == {str(moved)}
    assert converted.is_current(line, 3)
    made.rmtree()
    assert find_model(f"{line}@3", line, system.recipes) == made and made.exists()


def test_another_run_is_refused_before_weights_are_read(continued, monkeypatch):
    system, line = continued
    (line / "model").rmtree()  # it has not ended
    monkeypatch.setattr(experiments, "load_starts", lambda *_: pytest.fail("reads weights"))
    with pytest.raises(ValueError, match=r"holds a run with starts = \['\w+'\], this one has \['\w+'\]: continue"):
        run(system, "line", line.parent, line.parent.parent / "another")


def test_a_start_that_does_not_fit_claims_no_folder(continued):
    """The right one can be named in the next call."""
    system, line = continued
    folder.save("wrong", folder.from_params({"line": {"slope": np.zeros(7, np.float32)}}), "{}")
    with pytest.raises(ValueError, match="wrong"):
        run(system, "line", "runs", "wrong")
    assert run(system, "line", "runs", "../start").exists()


COUNTING = """
import sys
import jax
from gsva_jax.cli import main

counts = {}
jax.monitoring.register_event_listener(lambda event, **_: counts.update({event: counts.get(event, 0) + 1}))
assert main(["train", *sys.argv[1:]]) == 0
print("hits and misses:", *(counts.get(f"/jax/compilation_cache/cache_{kind}", 0) for kind in ("hits", "misses")))
"""


def test_a_resumed_run_finds_all_its_programs_compiled(tmp_path):
    """As the command is called, twice; between the calls it loses what it did after update 2."""
    words = [write_config(tmp_path), "--runs", tmp_path / "runs", "--save-every", "2"]
    environment = {
        "XDG_CACHE_HOME": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",  # nothing here takes long to compile
    }
    counts = []
    for _ in range(2):
        done = processes.run([sys.executable, "-c", COUNTING, *words], environment)
        assert done.returncode == 0, done.stderr
        counts.append([int(word) for word in done.stdout.rpartition("misses:")[2].split()])
        shutil.rmtree(tmp_path / "runs" / "small" / "model")
        shutil.rmtree(tmp_path / "runs" / "small" / "checkpoints" / "3")
    (_, compiled), (found, missed) = counts
    assert compiled >= 3 and missed == 0 and found >= 3
    steps = [json.loads(line)["step"] for line in (tmp_path / "runs" / "small" / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 3]
