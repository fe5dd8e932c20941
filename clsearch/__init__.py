"""clsearch: which hyperparameters for continual learning, and how do you know?

Study                    one question, one search, one record
Comparison               several studies and one table
SPACES, LogRange, Range  search spaces
register, Terms          an algorithm of your own
ConfigError              refused input
"""

import os

# Off unless the user turns them on; read by the libraries when they are imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from clsearch.common.errors import tell_uncaught
from clsearch.comparison import Comparison
from clsearch.config.trial import ConfigError
from clsearch.methods.penalty_output import Terms
from clsearch.methods.registry import register
from clsearch.planning.spaces import SPACES, LogRange, Range
from clsearch.study import Study
from clsearch.version import __version__

tell_uncaught()

__all__ = ["SPACES", "Comparison", "ConfigError", "LogRange", "Range", "Study", "Terms", "__version__", "register"]
