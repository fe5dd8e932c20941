"""The same training in other libraries, if they are installed, for `step.py --peers`.

They are not dependencies. `pip install avalanche-lib clarena` into the environment adds their rows.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch

from clsearch.networks.mlp import MLP
from clsearch.tasks.benchmark import Task
from clsearch.training.trial_setup import TrialSetup


def whole(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and labels of a task's one member, on the CPU."""
    inputs, labels = task.train.take(torch.arange(task.train.sizes[0])[None])
    return inputs[0], labels[0]


def perceptron(network: MLP) -> torch.nn.Sequential:
    """Build the trial's network from torch's own modules."""
    widths, layers = (network.inputs, *network.hidden), list[torch.nn.Module]()
    for fan_in, fan_out in pairwise(widths):
        layers += [torch.nn.Linear(fan_in, fan_out), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(widths[-1], network.outputs))


def avalanche(run: TrialSetup, tasks: int) -> Callable[[], object]:
    """Make work that runs Avalanche's strategy of the trial's algorithm on the task after `tasks`."""
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
        warnings.simplefilter("ignore")  # it warns that nothing is logged, which is intended
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
        strategy.clock.train_exp_counter = tasks  # repeat the same task, with the same number before it
        return strategy.train(last)

    return learn


def clarena_model(run: TrialSetup) -> Any:
    """Build CLArena's algorithm on the trial's network."""
    from clarena.backbones import CLMLP
    from clarena.cl_algorithms import EWC, Finetuning, LwF
    from clarena.heads import HeadsTIL

    config = run.config
    assert isinstance(run.network, MLP)
    *hidden, last = run.network.hidden
    parts = {"backbone": CLMLP(run.network.inputs, hidden, last), "heads": HeadsTIL(last)}
    factor, temperature = config.distillation_factor, config.distillation_temperature
    return {
        "finetuning": lambda: Finetuning(**parts),
        "lwf": lambda: LwF(distillation_reg_factor=factor, distillation_reg_temperature=temperature, **parts),
        "ewc": lambda: EWC(
            parameter_change_reg_factor=config.penalty_factor, when_calculate_fisher_information="train_end", **parts
        ),
    }[config.algorithm]()


def clarena(run: TrialSetup, tasks: int) -> Callable[[], object]:
    """Make work that runs CLArena's algorithm on the task after `tasks`, as its pipeline does: a Lightning trainer per
    task.
    """
    from lightning import LightningDataModule, Trainer
    from torch.utils.data import DataLoader, TensorDataset

    class Data(LightningDataModule):
        def __init__(self, task: Task) -> None:
            super().__init__()
            inputs, labels = whole(task)
            self.own = TensorDataset(inputs, labels - task.classes[0])

        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(self.own, run.config.batch_size, shuffle=True)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    model, rate = clarena_model(run), partial(torch.optim.SGD, lr=run.config.learning_rate)
    said = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")

    def learn(task: Task) -> object:
        model.setup_task_id(task.index, len(task.classes), rate, None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns about missing validation and data workers, which is intended
            trainer = Trainer(accelerator="cpu", max_epochs=run.config.epochs, **dict.fromkeys(said, False))
            trainer.fit(model, datamodule=Data(task))
        return model

    for task in run.benchmark.tasks[:tasks]:
        learn(task)
    return partial(learn, run.benchmark.tasks[tasks])


PEERS = {"Avalanche": avalanche, "CLArena": clarena}
"""Name, which in lower case is the module's -> function of (trial, number of tasks learned before) -> work that learns
the next task.
"""
