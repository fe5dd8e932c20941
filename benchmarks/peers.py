"""The same work in other libraries, where they are installed: what `step.py --peers` measures beside ours.

They are not dependencies. `pip install avalanche-lib` into the environment adds Avalanche's rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch

from clsearch.core.benchmarks import Task
from clsearch.core.networks import MLP
from clsearch.core.run import Run


def whole(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels of a task's one member, on the CPU."""
    inputs, labels = task.train.take(torch.arange(task.train.sizes[0])[None])
    return inputs[0], labels[0]


def perceptron(network: MLP) -> torch.nn.Sequential:
    """The run's network as torch's own modules."""
    widths, layers = (network.inputs, *network.hidden), list[torch.nn.Module]()
    for fan_in, fan_out in pairwise(widths):
        layers += [torch.nn.Linear(fan_in, fan_out), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(widths[-1], network.outputs))


def avalanche(run: Run, tasks: int) -> Callable[[], object]:
    """Avalanche's strategy of the run's algorithm in the task after `tasks`; raises ImportError where it is not
    installed.
    """
    from avalanche.benchmarks import tensors_benchmark
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import EWC, LwF, Naive

    config = run.config
    assert isinstance(run.network, MLP)
    torch.manual_seed(0)
    data = [whole(task) for task in run.benchmark.tasks[: tasks + 1]]
    experiences = tensors_benchmark(data, data[:1], task_labels=[0] * len(data)).train_stream
    model = perceptron(run.network)
    common: dict[str, Any] = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=config.learning_rate),
        "criterion": torch.nn.CrossEntropyLoss(),
        "train_mb_size": config.batch_size,
        "train_epochs": config.epochs,
        "evaluator": None,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing is logged, as is wanted
        common["evaluator"] = EvaluationPlugin()
    factor, temperature = config.distillation_factor, config.distillation_temperature
    strategy = {
        "finetuning": lambda: Naive(**common),
        "lwf": lambda: LwF(alpha=factor, temperature=temperature, **common),
        "ewc": lambda: EWC(ewc_lambda=config.penalty_factor, **common),
    }[config.algorithm]()
    for experience in experiences[:tasks]:
        strategy.train(experience)
    last = experiences[tasks]

    def learn() -> object:
        strategy.clock.train_exp_counter = tasks  # always the same task, with as many before it
        return strategy.train(last)

    return learn


PEERS = {"Avalanche": avalanche}
"""Name -> (run, number of tasks that are learned before) -> what learns the next task. Raises ImportError."""
