"""Finetuning: each task is learned in turn, and nothing holds on to earlier ones. The lower reference."""

from clsearch.methods.base import Method

FINETUNING = Method(
    name="finetuning",
    label="finetuning",
    summary="Training on each task in turn, and nothing else: the lower reference.",
    trainable="FinetuningTrainable",
)

METHODS = (FINETUNING,)
