"""Joint training: at each task, train fresh weights on all tasks so far together. It is the upper reference."""

from clsearch.methods.base import Method, TrainingScheme

METHODS = (
    Method(
        name="joint",
        label="joint training",
        summary="At each task, fresh weights trained on all tasks so far together: the upper reference.",
        scheme=TrainingScheme.JOINT,
        trainable="JointTrainable",
    ),
)
