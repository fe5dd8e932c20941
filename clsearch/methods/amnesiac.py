"""Amnesiac variants: they learn as the methods that they are named after, and unlearn tasks on request (Graves et al.
2021). `training.unlearning` subtracts the updates that the unlearned tasks made.
"""

from clsearch.methods.ewc import EWC
from clsearch.methods.finetuning import FINETUNING
from clsearch.methods.lwf import LWF

METHODS = (FINETUNING.unlearning(), LWF.unlearning(), EWC.unlearning())
