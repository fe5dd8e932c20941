"""Learning without Forgetting (Li & Hoiem 2017).

    L = cross-entropy + distillation_factor * Σ_{k<t} D_k                                       (eq. 1)

D_k is the distance between the student's logits and those of teacher k, a frozen snapshot, both softened with the
temperature τ (eq. 2-4). `penalties.distillation` computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from clsearch.common.errors import Refusal
from clsearch.config.domains import LogRange
from clsearch.config.hyperparameters import Hyperparameter
from clsearch.config.sections import DERIVED, Scenario, Section
from clsearch.config.trial import TrialConfig
from clsearch.methods.base import Hyperparameters, Memory, Method, Penalty, PenaltyOutput, Student, recall

if TYPE_CHECKING:
    from torch import Tensor

    from clsearch.methods.penalties.distillation import DistillationTarget, TeacherSummary
    from clsearch.networks.mlp import Network, Params
    from clsearch.tasks.benchmark import Benchmark, Task
    from clsearch.tasks.samples import Batch


class LwFConfig(Section):
    """LwF"""

    distillation_factor: Annotated[float, Hyperparameter(LogRange(1e-4, 1e3), "high", decays=True)] = Field(
        1.0,
        gt=0,
        description="Weight of the distillation penalty.",
    )
    distillation_temperature: Annotated[float, Hyperparameter(LogRange(1e-2, 1e2), symbol="τ")] = Field(
        2.0,
        gt=0,
        description="Temperature τ that softens the outputs of teacher and student.",
    )
    teachers: Literal["per_task", "last"] = Field(
        DERIVED,
        validate_default=False,
        description="One frozen snapshot per old task, or the newest for all. If not given: last in "
        "class-incremental learning, per_task otherwise.",
    )
    train_head: bool = Field(
        DERIVED,
        validate_default=False,
        description="Train the head with the distillation gradient. If not given: not in task-incremental learning.",
    )
    distance: Literal["cross_entropy", "kl", "mse"] = Field(
        "cross_entropy",
        description="Distance between teacher and student: cross-entropy (as published), Kullback-Leibler divergence "
        "(the same gradient) or mean squared error of logits (no temperature).",
    )
    temperature_scaling: Literal["none", "squared"] = Field(
        "none", description="Multiply the penalty by 1 (as published) or by τ² (Hinton et al. 2015)."
    )


def derive_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of teachers and head, which depend on whether tasks share outputs."""
    scenario = settings["scenario"]
    return {"teachers": "last" if scenario == "class" else "per_task", "train_head": scenario != "task"}


def check_scaling(config: TrialConfig) -> list[Refusal]:
    """Refuse to scale by the temperature if the distance has none."""
    assert isinstance(config, LwFConfig)
    if config.distance != "mse" or config.temperature_scaling == "none":
        return []
    rule = "must be none if distance is mse, which has no temperature"
    return [Refusal("mse-has-no-temperature", f"temperature_scaling: {rule}; got {config.temperature_scaling}")]


def find_unsearchable(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the temperature, which has no effect on the squared error of logits."""
    if settings.get("distance") != "mse":
        return {}
    return {
        "distillation_temperature": "must not be searched if distance is mse, which has no temperature; give one "
        "value instead of a range, or another distance"
    }


@dataclass(frozen=True)
class LearningWithoutForgetting:
    """distillation_factor * Σ_{k<t} D_k, with D_k the mean over the batch of the distance from student to teacher k.

    With q = softmax(teacher / τ) and p = softmax(student / τ) over the outputs of teacher k:

    - cross_entropy: -Σ_c q_c log p_c
    - kl: Σ_c q_c log(q_c / p_c): the same gradient, without the teacher's entropy
    - mse: mean over the outputs of (student - teacher)², of logits

    Always logs `kl`, because its values are comparable across τ.

    Source: Li & Hoiem 2017, equations 1 to 4.

    Args:
        newest_only: Use the newest snapshot for every old task, instead of one snapshot per task.
        train_head: The gradient reaches the head.
        distance: cross_entropy, kl or mse.
        squared: Multiply by τ² (Hinton et al. 2015).
        augmented: Run the teachers at each step on the student's augmented inputs, instead of once per task on the
            training data without augmentation.
        visits: Samples that the steps of a task use, None for whole epochs; if the task has more data, the teachers
            also run at each step.
        keep_all: Also keep snapshots that no term uses, because the newest task can be unlearned.
    """

    newest_only: bool
    train_head: bool
    distance: str
    squared: bool
    augmented: bool = False
    visits: int | None = None
    keep_all: bool = False

    @property
    def logs(self) -> tuple[str, ...]:
        return ("kl",)

    @property
    def trains_head(self) -> bool:
        return self.train_head

    def targets(self, benchmark: Benchmark, t: int) -> list[DistillationTarget]:
        """Return the terms of the sum at task t."""
        from clsearch.methods.penalties.distillation import DistillationTarget

        old = benchmark.retained(t - 1)
        newest = old[-1]
        if benchmark.scenario is Scenario.CLASS and self.newest_only:
            return [DistillationTarget(newest, benchmark.seen(newest))]
        if benchmark.scenario is Scenario.DOMAIN and self.newest_only:
            return [DistillationTarget(newest, tuple(range(benchmark.outputs)), weight=len(old))]
        return [DistillationTarget(newest if self.newest_only else k, benchmark.active_outputs(k, k)) for k in old]

    def prepare(
        self, network: Network, benchmark: Benchmark, task: Task, memory: Memory, hyperparameters: Hyperparameters
    ) -> Penalty | None:
        """Build the penalty of a task, see `Regularizer.prepare`; None if no earlier task is retained."""
        if not benchmark.retained(task.index - 1):
            return None
        from clsearch.methods.penalties.distillation import log_normalizer, output_weights

        targets = self.targets(benchmark, task.index)
        teachers = {target.teacher: recall(memory, f"teacher/{target.teacher}/") for target in targets}
        temperature = hyperparameters["distillation_temperature"][:, None, None]
        ask = self._ask_teachers(network, task, teachers, targets, temperature)
        normalize = log_normalizer(targets, temperature.device)
        scale = hyperparameters["distillation_factor"]
        if self.squared:
            scale = scale * hyperparameters["distillation_temperature"].square()
        weights = output_weights(targets, benchmark.outputs, scale.device)

        def penalty(student: Student, batch: Batch) -> PenaltyOutput:
            summary, logits = ask(student, batch), self._logits(network, student)
            scaled_logits = (logits.detach() if self.distance == "mse" else logits) / temperature
            agreement = (summary["targets"] * scaled_logits).sum(-1)
            distance = batch.mean(normalize(scaled_logits) - agreement)
            kl = distance - batch.mean(summary["entropies"])
            if self.distance == "mse":
                squares = (logits - summary["centers"]).square() @ weights
                distance = batch.mean(squares + summary["constants"])
            return PenaltyOutput(scale * (kl if self.distance == "kl" else distance), {"kl": kl})

        return penalty

    def _ask_teachers(
        self,
        network: Network,
        task: Task,
        teachers: dict[int, Params],
        targets: list[DistillationTarget],
        temperature: Tensor,
    ) -> Callable[[Student, Batch], TeacherSummary]:
        """Return the function that summarizes the teachers' outputs on a step's batch."""
        from clsearch.methods.penalties.distillation import gather_batch, summarize, summarize_task, teacher_logits

        ask = teacher_logits(network, teachers)

        def summarize_inputs(inputs: Tensor) -> TeacherSummary:
            return summarize(ask, inputs, targets, temperature, centered=self.distance == "mse")

        if self.augmented or (self.visits is not None and self.visits < max(task.train.sizes)):
            return lambda student, batch: summarize_inputs(student.inputs)
        cached = summarize_task(task, summarize_inputs, max(1, network.eval_batch_size // len(teachers)))
        return lambda student, batch: {name: gather_batch(values, batch) for name, values in cached.items()}

    def _logits(self, network: Network, student: Student) -> Tensor:
        """Return the student's logits, without gradient to the head unless it is trained."""
        if self.train_head:
            return student.logits
        from clsearch.networks.mlp import is_head

        frozen = {name: v.detach() for name, v in student.params.items() if is_head(name)}
        return network.logits(frozen, student.features)

    def remember(self, network: Network, benchmark: Benchmark, task: Task, params: Params, memory: Memory) -> Memory:
        """Add the task's teacher to the memory, see `Regularizer.remember`."""
        alone = self.newest_only and not self.keep_all
        kept = {} if alone else {k: v for k, v in memory.items() if k.startswith("teacher/")}
        others = {k: v for k, v in memory.items() if not k.startswith("teacher/")}
        return others | kept | {f"teacher/{task.index}/{name}": v for name, v in params.items()}


def build(config: TrialConfig) -> LearningWithoutForgetting:
    """Build the distillation penalty of a configuration."""
    assert isinstance(config, LwFConfig)
    return LearningWithoutForgetting(
        newest_only=config.teachers == "last",
        train_head=config.train_head,
        distance=config.distance,
        squared=config.temperature_scaling == "squared",
        augmented=config.augmented,
        visits=config.iterations and config.iterations * config.batch_size,
        keep_all=config.unlearns and config.newest_may_go,
    )


LWF = Method(
    name="lwf",
    label="LwF",
    summary="Learning without Forgetting (Li & Hoiem 2017).",
    section=LwFConfig,
    build=build,
    derive=derive_defaults,
    rules=(check_scaling,),
    unsearchable=find_unsearchable,
    presets={"clarena-first": {"teachers": "per_task", "train_head": False}},
)

METHODS = (LWF,)
