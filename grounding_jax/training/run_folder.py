"""What lies where in the folder of a training run, and which model folder a name means."""

from etils import epath

from grounding_jax.weights.folder import CONFIG_FILE

IDENTITY_FILE = "run.json"  # what this is a run of
LOG_FILE = "log.jsonl"
VALIDATION_FILE = "validation.jsonl"
PICTURES = "pictures"  # predictions on examples of the validation
PROFILE = "profile"  # a trace of some updates
BOARD_FOLDER = "tensorboard"
BAD_STEPS_FILE = "bad_steps.jsonl"
CHECKPOINTS = "checkpoints"
RESULT = "model"  # what was trained, as a model folder
BEST = "best"  # what stands for a step in RUN@best
BROKEN = "broken_checkpoints"  # where damaged ones are put aside


def find_folder(name: epath.PathLike, shipped: epath.Path | None = None) -> epath.Path:
    """The model folder that a name means: that of a finished run, a shipped model's, or the path itself.

    Args:
        name: a path, or the bare name of a shipped model.
        shipped: the folder that holds the shipped models; None where there are none.

    Raises:
        FileNotFoundError: a run has not finished.
    """
    path = epath.Path(name)
    if (path / RESULT / CONFIG_FILE).exists():
        return path / RESULT
    if (path / IDENTITY_FILE).exists():
        raise FileNotFoundError(f"{path}: this run has not finished; name one of its steps, as in {path}@STEP")
    if shipped is None or path.exists() or str(name) != path.name:
        return path
    model = shipped / path.name
    return model if (model / CONFIG_FILE).exists() else path
