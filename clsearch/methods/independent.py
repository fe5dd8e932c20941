"""Independent networks: one network per task, which predicts this task only."""

from clsearch.common.errors import Refusal
from clsearch.config.sections import Scenario
from clsearch.config.trial import TrialConfig
from clsearch.methods.base import Method, TrainingScheme


def check_scenario(config: TrialConfig) -> list[Refusal]:
    """Refuse class-incremental learning, which does not give the task that selects the network."""
    if config.scenario is not Scenario.CLASS:
        return []
    rule = (
        "must be task or domain for independent networks, because class-incremental learning does not give the task "
        "that selects the network"
    )
    return [Refusal("independent-needs-task-identity", f"scenario: {rule}; got class")]


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
