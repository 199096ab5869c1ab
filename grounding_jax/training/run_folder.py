"""What lies where in the folder of a training run; imports nothing, so that it may be asked anywhere."""

IDENTITY_FILE = "run.json"  # what this is a run of
LOG_FILE = "log.jsonl"
VALIDATION_FILE = "validation.jsonl"
PICTURES = "pictures"  # predictions on examples of the validation
PROFILE = "profile"  # a trace of some updates
BOARD_FOLDER = "tensorboard"
BAD_STEPS_FILE = "bad_steps.jsonl"
CHECKPOINTS = "checkpoints"
BEST = "best"  # what stands for a step in RUN@best
BROKEN = "broken_checkpoints"  # where damaged ones are put aside
