"""Amnesiac variants of finetuning, LwF and EWC: they train alike and unlearn tasks on request (Graves et al. 2021).

`training.unlearning` subtracts the parameter updates of the unlearned tasks.
"""

from clsearch.methods.ewc import EWC
from clsearch.methods.finetuning import FINETUNING
from clsearch.methods.lwf import LWF

METHODS = (FINETUNING.unlearning(), LWF.unlearning(), EWC.unlearning())
