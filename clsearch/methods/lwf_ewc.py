"""LwF and EWC together: the loss has both penalties."""

from clsearch.methods.base import Method
from clsearch.methods.ewc import EWC
from clsearch.methods.lwf import LWF

METHODS = (
    Method(
        name="lwf_ewc",
        label="LwF with EWC",
        summary="Distillation and parameter change at once.",
        parts=(LWF, EWC),
        trainable="LwFEWCTrainable",
    ),
)
