"""Independent networks: one network per task, which alone answers for it."""

from clsearch.config.sections import Scenario
from clsearch.config.trial import TrialConfig
from clsearch.methods.base import Method, TrainingScheme


def check_scenario(config: TrialConfig) -> list[str]:
    """Refuse class-incremental learning: nothing says which network answers."""
    if config.scenario is not Scenario.CLASS:
        return []
    return [
        "scenario: must be task or domain for independent networks, because which of them answers is the task's "
        "identity, unknown in class-incremental learning; got class"
    ]


METHODS = (
    Method(
        name="independent",
        label="independent",
        summary="One network per task.",
        scheme=TrainingScheme.INDEPENDENT,
        rules=(check_scenario,),
        trainable="IndependentTrainable",
    ),
)
