"""What several test modules build: small configurations and benchmarks, files of data sets, a plain forward pass."""

import pickle
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat
from torch import Tensor

from clsearch.core.benchmarks import Benchmark, Task
from clsearch.core.config import TrialConfig
from clsearch.core.datasets import SOURCES
from clsearch.core.networks import MLP, Params
from clsearch.core.parts import Scenario
from clsearch.core.regularizers import Student
from clsearch.core.run import Run, build_run
from clsearch.core.samples import Batch, Mixture, Samples, stacked_rows

# The networks here are so small that threads only wait for each other: minutes instead of seconds on a busy machine.
torch.set_num_threads(1)

CPU = torch.device("cpu")


def small_config(algorithm: str = "finetuning", **settings: object) -> TrialConfig:
    """Split digits on a small network for two epochs, unless told otherwise."""
    length = {} if "iterations" in settings else {"epochs": 2}
    return TrialConfig.of(algorithm, {"hidden": (12,), "tasks": 3, "batch_size": 64} | length | settings)


def small_run(algorithm: str = "finetuning", seeds: Sequence[int] = (0,), **settings: object) -> Run:
    return build_run(small_config(algorithm, **settings), seeds)


def member_of(params: Params, m: int) -> Params:
    """The parameters of one member, without the leading axis."""
    return {name: value[m] for name, value in params.items()}


def forward(params: Params, inputs: Tensor) -> Tensor:
    """Logits [B, C] of one member's ReLU network, by torch's own linear layers."""
    values = inputs
    layers = [name.removesuffix(".weight") for name in params if name.endswith(".weight")]
    for layer in layers:
        values = torch.nn.functional.linear(values, params[f"{layer}.weight"].T, params[f"{layer}.bias"][0])
        if layer != layers[-1]:
            values = values.relu()
    return values


def leaves_of(params: Params) -> Params:
    return {name: value.detach().clone().requires_grad_() for name, value in params.items()}


def doubled(params: Params) -> Params:
    return {name: value.detach().double().requires_grad_() for name, value in params.items()}


def student_of(network: MLP, leaves: Params, inputs: Tensor) -> Student:
    features = network.features(leaves, inputs)
    return Student(leaves, features, network.logits(leaves, features), inputs)


def random_params(network: MLP, members: int, seed: int) -> Params:
    return network.initial([1000 * seed + m for m in range(members)], CPU)


def tiny_benchmark(
    scenario: Scenario,
    groups: Sequence[int],
    members: int = 2,
    samples: int | Sequence[int] = 9,
    inputs: int = 5,
) -> Benchmark:
    """Random data: task k has `groups[k-1]` classes and `samples` rows (of each member), other rows for each member."""
    generator = torch.Generator().manual_seed(5)
    sizes = [samples] * members if isinstance(samples, int) else list(samples)
    total = sum(groups)
    labels = torch.arange(40 * total) % total
    values = torch.randint(0, 256, (len(labels), inputs), generator=generator, dtype=torch.uint8)
    tasks = []
    for index, classes in enumerate(torch.arange(total).split(list(groups)), start=1):
        first = int(classes[0]) if scenario is Scenario.DOMAIN else 0
        outputs = torch.full((members, total), -1)
        outputs[:, classes] = classes - first
        own = torch.isin(labels, classes).nonzero().squeeze(1)
        rows = own[torch.randint(0, len(own), (members, 2 * max(sizes)), generator=generator)]
        train, validation = (
            Samples(
                values,
                labels,
                255.0,
                stacked_rows([row[:n] for row, n in zip(part, sizes, strict=True)]),
                tuple(sizes),
                outputs,
            )
            for part in rows.split(max(sizes), dim=1)
        )
        tasks.append(Task(index, index, tuple((classes - first).tolist()), train, validation))
    width = max(max(task.classes) for task in tasks) + 1
    return Benchmark(scenario, tuple(range(members)), tuple(tasks), width, (1, 1, inputs))


def everything(samples: Samples | Mixture, m: int) -> tuple[Tensor, Tensor]:
    """All samples of one member: inputs [n, D], labels [n]."""
    positions = torch.arange(samples.sizes[m]).expand(len(samples.sizes), -1)
    others = torch.tensor(samples.sizes)[:, None]
    inputs, labels = samples.take(torch.where(positions < others, positions, 0))
    return inputs[m], labels[m]


def same_batch(first: Batch, second: Batch) -> bool:
    """Whether two batches hold the same positions, and the same of them count."""
    if (first.valid is None) != (second.valid is None) or not torch.equal(first.positions, second.positions):
        return False
    return first.valid is None or second.valid is None or torch.equal(first.valid, second.valid)


class DoubleSamples(Samples):
    """Inputs are sixteenths, so they are the same numbers in both precisions."""

    def take(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        inputs, labels = super().take(positions)
        return inputs.double(), labels


def in_double(benchmark: Benchmark) -> Benchmark:
    """A benchmark whose inputs are of double precision."""
    tasks = [
        replace(task, train=DoubleSamples(**vars(task.train)), validation=DoubleSamples(**vars(task.validation)))
        for task in benchmark.tasks
    ]
    return replace(benchmark, tasks=tuple(tasks))


def network_for(benchmark: Benchmark, hidden: tuple[int, ...] = (6, 4)) -> MLP:
    return MLP(benchmark.inputs, hidden, benchmark.outputs)


def write_idx(path: Path, values: np.ndarray) -> None:
    """An IDX file of unsigned bytes: big-endian magic number (2049 labels, 2051 images), sizes, values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">{1 + values.ndim}i", 2048 + values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def write_mnist(root: Path, part: str, per_class: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random images in MNIST's files (`part`: train or t10k). Returns images [N, 28, 28] and labels [N]."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(10), per_class))
    images = generator.integers(0, 256, (len(labels), 28, 28))
    write_idx(root / "MNIST" / "raw" / f"{part}-images-idx3-ubyte", images)
    write_idx(root / "MNIST" / "raw" / f"{part}-labels-idx1-ubyte", labels)
    return torch.from_numpy(images).to(torch.uint8), torch.from_numpy(labels)


def write_pickle(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


def channel_rows(images: np.ndarray) -> np.ndarray:
    """[N, 3072] as CIFAR's files hold images: all red pixels, row by row, then all green ones, then all blue ones."""
    return np.stack([np.concatenate([channel.ravel() for channel in image]) for image in images])


def write_cifar10(root: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    """CIFAR-10's files of one part: five batches, of unequal size here, or one."""
    folder = root / "cifar-10-batches-py"
    names = [f"data_batch_{i}" for i in range(1, 6)] if part == "train" else ["test_batch"]
    for name, rows in zip(names, np.array_split(np.arange(len(labels)), len(names)), strict=True):
        content = {
            "batch_label": name,
            "labels": labels[rows].tolist(),
            "data": channel_rows(images[rows]),
            "filenames": [f"{row}.png" for row in rows],
        }
        write_pickle(folder / name, content)
    write_pickle(
        folder / "batches.meta",
        {"num_cases_per_batch": 10000, "label_names": list(SOURCES["cifar10"].classes), "num_vis": 3072},
    )


def write_cifar100(root: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    content = {
        "filenames": [f"{row}.png" for row in range(len(labels))],
        "batch_label": f"{part}ing batch 1 of 1",
        "fine_labels": labels.tolist(),
        "coarse_labels": (labels // 5).tolist(),
        "data": channel_rows(images),
    }
    write_pickle(root / "cifar-100-python" / part, content)
    names = {"fine_label_names": [f"fine {i}" for i in range(100)], "coarse_label_names": list(map(str, range(20)))}
    write_pickle(root / "cifar-100-python" / "meta", names)


def write_svhn(root: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    """SVHN's file of one part: X [32, 32, 3, N], y [N, 1] in which 10 stands for the digit 0."""
    root.mkdir(parents=True, exist_ok=True)
    y = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
    savemat(root / f"{part}_32x32.mat", {"X": images.transpose(2, 3, 1, 0), "y": y})


def write_images(folder: Path, images: dict[str, np.ndarray]) -> None:
    """PNG files 000.png, 001.png, ... in a folder per class. images: class -> [n, C, H, W] uint8, grey or colour."""
    for name, own in images.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(own):
            pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            Image.fromarray(pixels).save(folder / name / f"{number:03d}.png")


def random_images(count: int, shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """[count, C, H, W] uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def same_params(first: Params, second: Params) -> bool:
    """Whether two dicts of tensors are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
