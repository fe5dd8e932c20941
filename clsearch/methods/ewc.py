"""Elastic weight consolidation (Kirkpatrick et al. 2017, eq. 3) with a free exponent.

    L = cross-entropy + penalty_factor * Σ_{k<t} Σ_i F_{k,i} |θ_i - θ*_{k,i}|^p

F_k is the diagonal Fisher information after task k (`penalties.fisher`) and θ*_k the parameters then (the anchor). With
p = 2, penalty_factor is λ/2 of the paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from clsearch.common.errors import ConfigError, Refusal
from clsearch.config.domains import Domains, LogRange, Range
from clsearch.config.hyperparameters import Hyperparameter, PerMember
from clsearch.config.sections import Scenario, Section
from clsearch.config.trial import TrialConfig
from clsearch.methods.base import Hyperparameters, Memory, Method, Penalty, recall

if TYPE_CHECKING:
    from torch import Tensor

    from clsearch.methods.penalties.fisher import Fisher
    from clsearch.networks.mlp import Network, Params
    from clsearch.tasks.benchmark import Benchmark, Task


class EWCConfig(Section):
    """EWC"""

    penalty_factor: Annotated[float, Hyperparameter(LogRange(1e-1, 1e5), "high", decays=True)] = Field(
        1.0,
        gt=0,
        description="Weight of the parameter-change penalty (λ/2 of Kirkpatrick et al. 2017 when p = 2).",
    )
    penalty_p_norm: Annotated[float, Hyperparameter(Range(1.0, 3.0), "low", symbol="p", special=2.0)] = Field(
        2.0,
        ge=1,
        description="Exponent p of the parameter distance.",
    )
    fisher: Literal["empirical", "sampled", "exact", "batch"] = Field(
        "empirical",
        description="Estimate of the Fisher information: from single samples at their true labels (empirical), at "
        "labels drawn from the model (sampled) or expected over labels (exact); or from batch means at true labels "
        "(batch; about 1/batch size of empirical).",
    )
    fisher_scale: Literal["none", "per_parameter", "unit_trace"] = Field(
        "none", description="Divide the Fisher information by nothing, the number of backbone parameters, or its sum."
    )
    fisher_samples: int | None = Field(
        None, ge=1, description="Number of samples for the Fisher information of a task. If not given: all."
    )
    average_over_tasks: bool = Field(
        False, description="Divide the sum over old tasks by the number of the current task."
    )
    anchors: Literal["separate", "online"] = Field(
        "separate",
        description="Anchors of the penalty: the parameters after each task, or the newest with summed importances.",
    )
    gamma: Annotated[float, PerMember()] = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of earlier importances that online anchors keep at each task (1: all of them).",
    )


def check_anchors(config: TrialConfig) -> list[Refusal]:
    """Refuse a gamma without effect, and merged anchors if tasks can be unlearned."""
    assert isinstance(config, EWCConfig)
    problems = []
    if config.gamma != 1 and config.anchors != "online":
        text = f"gamma: acts with anchors = online only; got {config.gamma:g} with {config.anchors}"
        problems.append(Refusal("online-only", text))
    if config.unlearns and config.anchors == "online":
        rule = "must be separate if tasks can be unlearned, because unlearning drops their anchors"
        problems.append(Refusal("unlearning-needs-separate-anchors", f"anchors: {rule}; got online"))
    return problems


def default_ranges(config: TrialConfig) -> Domains:
    """Return the range of the factor, which depends on the estimator and the scale of the Fisher information."""
    assert isinstance(config, EWCConfig)
    factor = EWC.own_hyperparameters["penalty_factor"]
    return {"penalty_factor": factor.range.scaled(1 / relative_fisher(config))}


def relative_fisher(config: TrialConfig) -> float:
    """Estimate the size of the Fisher information relative to `fisher` empirical with `fisher_scale` none.

    `batch` is about 1/batch size of it. `sampled` and `exact` are 1 to 10 times it if a task is not learned to the last
    sample, and up to 80 times otherwise, because true labels then have small gradients. The measured sum after a task
    of split and permuted digits and MNIST is 0.002 to 40, which `unit_trace` makes 1. These estimators share one range,
    which spans six decades.
    """
    assert isinstance(config, EWCConfig)
    size = 1.0
    if config.fisher == "batch" and config.fisher_scale != "unit_trace":
        size /= min(config.batch_size, config.fisher_samples or config.batch_size)
    if config.fisher_scale == "per_parameter":
        size /= count_backbone_parameters(config)
    return size


def count_backbone_parameters(config: TrialConfig) -> int:
    """Count the parameters of a configuration's backbone; loads torch unless it is an MLP.

    Raises:
        ConfigError: If the backbone cannot be used.
    """
    if config.backbone == "mlp":
        widths = (math.prod(config.source.shape), *config.hidden)
        return sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(widths))
    from clsearch.networks.modules import backbone_factory, count_parameters
    from clsearch.networks.validation import find_problems

    factory = backbone_factory(config)
    if problems := find_problems(factory, config.source.shape):
        raise ConfigError(problems)
    return count_parameters(factory, config.source.shape)


@dataclass(frozen=True)
class ElasticWeightConsolidation:
    """penalty_factor * Σ_{k<t} Σ_i F_{k,i} |θ_i - θ*_{k,i}|^p over the backbone and a shared head.

    The head is shared in domain- and class-incremental learning.

    Source: Kirkpatrick et al. 2017, equation 3.

    Args:
        merged: p is 2, so the sum over tasks is one quadratic and a constant.
        average: Divide the sum over old tasks by t.
        fisher: Estimator of F.
        scale: Scale of F: none, per_parameter or unit_trace.
        online: gamma, a number or [M], to keep one anchor, the newest, with F <- gamma F + F_new (Schwarz et al.
            2018); None keeps one anchor per task.
    """

    merged: bool
    average: bool
    fisher: Fisher
    scale: str
    online: float | Tensor | None

    def for_members(self, differing: Hyperparameters) -> ElasticWeightConsolidation:
        """Return the penalty with each member's gamma, see `Regularizer`."""
        return self if self.online is None else replace(self, online=differing.get("gamma", self.online))

    @property
    def logs(self) -> tuple[str, ...]:
        return ()

    @property
    def trains_head(self) -> bool:
        return False

    def prepare(
        self, network: Network, benchmark: Benchmark, task: Task, memory: Memory, hyperparameters: Hyperparameters
    ) -> Penalty | None:
        """Build the penalty of a task, see `Regularizer.prepare`; None if no earlier task is retained."""
        old = benchmark.retained(task.index - 1)
        if not old:
            return None
        from clsearch.methods.penalties.parameter_change import merged_quadratic, p_norm_penalty, stack_tasks

        kept = old if self.online is None else old[-1:]
        names = tuple(recall(memory, f"anchor/{kept[0]}/"))
        importance, anchors = (
            stack_tasks([recall(memory, f"{kind}/{k}/") for k in kept], names) for kind in ("importance", "anchor")
        )
        factor = hyperparameters["penalty_factor"] / (len(old) + 1 if self.average else 1)
        if self.merged:
            return merged_quadratic(importance, anchors, factor, names)
        return p_norm_penalty(importance, anchors, factor, hyperparameters["penalty_p_norm"], names)

    def remember(self, network: Network, benchmark: Benchmark, task: Task, params: Params, memory: Memory) -> Memory:
        """Add the task's importance and anchor to the memory, see `Regularizer.remember`."""
        from clsearch.methods.penalties.fisher import scale_fisher
        from clsearch.networks.mlp import is_head, output_mask

        t = task.index
        allowed = output_mask(benchmark.active_outputs(t, t), benchmark.outputs, task.train.rows.device)
        measured = self.fisher(network, params, task.train, allowed, benchmark.seeds, task.origin)
        shared = benchmark.scenario is not Scenario.TASK
        new = scale_fisher({name: value for name, value in measured.items() if shared or not is_head(name)}, self.scale)
        if self.online is not None:
            old = recall(memory, f"importance/{t - 1}/")
            if old:
                new = {name: value + _scale(self.online, old[name]) for name, value in new.items()}
            memory = {k: v for k, v in memory.items() if not k.startswith(("importance/", "anchor/"))}
        importance = {f"importance/{t}/{name}": value for name, value in new.items()}
        return memory | importance | {f"anchor/{t}/{name}": params[name] for name in new}


def _scale(factor: float | Tensor, value: Tensor) -> Tensor:
    """Return a factor, a number or [M], times a value [M, ...]."""
    if isinstance(factor, float | int):
        return factor * value
    from clsearch.networks.mlp import broadcast_members

    return broadcast_members(factor, value) * value


def build(config: TrialConfig) -> ElasticWeightConsolidation:
    """Build the penalty of a configuration."""
    assert isinstance(config, EWCConfig)
    from clsearch.methods.penalties.fisher import Fisher

    return ElasticWeightConsolidation(
        merged=config.penalty_p_norm == 2,
        average=config.average_over_tasks,
        fisher=Fisher(config.fisher, config.fisher_samples, config.batch_size),
        scale=config.fisher_scale,
        online=config.gamma if config.anchors == "online" else None,
    )


EWC = Method(
    name="ewc",
    label="EWC",
    summary="Elastic weight consolidation (Kirkpatrick et al. 2017) with a free p-norm.",
    section=EWCConfig,
    build=build,
    rules=(check_anchors,),
    ranges=default_ranges,
    presets={"clarena-first": {"fisher": "batch", "fisher_scale": "per_parameter", "average_over_tasks": True}},
)

METHODS = (EWC,)
