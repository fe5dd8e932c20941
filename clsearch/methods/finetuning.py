"""Finetuning: train on each task in turn, without a penalty. It is the lower reference."""

from clsearch.methods.base import Method

FINETUNING = Method(
    name="finetuning",
    label="finetuning",
    summary="Training on each task in turn, and nothing else: the lower reference.",
    trainable="FinetuningTrainable",
)

METHODS = (FINETUNING,)
