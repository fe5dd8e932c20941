"""What several test modules build: small configurations and benchmarks, files of data sets, a plain forward pass."""

import dataclasses
import hashlib
import itertools
import pickle
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torch import Tensor

from clsearch.config.sections import Scenario
from clsearch.config.trial import TrialConfig
from clsearch.data.datasets import SOURCES
from clsearch.methods.base import Student
from clsearch.methods.registry import configure
from clsearch.networks.mlp import MLP, Params
from clsearch.tasks.benchmark import Benchmark, Task
from clsearch.tasks.samples import Batch, Mixture, Samples, stack_rows
from clsearch.training.state import TrialState
from clsearch.training.trial_setup import TrialSetup, build_trial

CPU = torch.device("cpu")


def pairs(*axes: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Rows of one value per axis in which every two values of different axes meet: for pytest's parametrize.

    Far fewer rows than the product has, and the same ones each time. Two axes give their product.
    """
    values = [list(axis) for axis in axes]
    if len(values) < 2:
        return [(value,) for axis in values for value in axis]
    columns = list(itertools.combinations(range(len(values)), 2))
    missing = dict.fromkeys(
        ((a, i), (b, j)) for a, b in columns for i in range(len(values[a])) for j in range(len(values[b]))
    )
    used = [[0] * len(axis) for axis in values]
    rows = []
    while missing:
        row = dict(next(iter(missing)))  # axis -> position of its value
        for axis in range(len(values)):
            if axis not in row:
                found = [
                    sum(tuple(sorted(((axis, i), other))) in missing for other in row.items())
                    for i in range(len(values[axis]))
                ]
                row[axis] = min(range(len(found)), key=lambda i, n=found, a=axis: (-n[i], used[a][i]))
        for axis, i in row.items():
            used[axis][i] += 1
        for pair in itertools.combinations(sorted(row.items()), 2):
            missing.pop(pair, None)
        rows.append(tuple(values[axis][row[axis]] for axis in range(len(values))))
    return rows


def in_turn(*axes: Iterable[Any]) -> list[tuple[Any, ...]]:
    """As many rows as the longest axis has values; shorter axes begin again. Where values of two axes need not meet."""
    values = [list(axis) for axis in axes]
    return [tuple(axis[i % len(axis)] for axis in values) for i in range(max(map(len, values)))]


def small_config(algorithm: str = "finetuning", **settings: object) -> TrialConfig:
    """Split digits on a small network for two epochs, unless told otherwise."""
    length = {} if "iterations" in settings else {"epochs": 2}
    return configure(algorithm, {"hidden": (12,), "tasks": 3, "batch_size": 128} | length | settings)


def small_run(
    algorithm: str = "finetuning",
    seeds: Sequence[int] = (0,),
    sequence: Sequence[int] | None = None,
    **settings: object,
) -> TrialSetup:
    return build_trial(small_config(algorithm, **settings), seeds, sequence=sequence)


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
                stack_rows([row[:n] for row, n in zip(part, sizes, strict=True)]),
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


def md5_of(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_part(name: str, root: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    """One part of a data set, in its files' own format. Where torchvision checks files, it takes these for the true.

    Returns images [N, C, H, W] and labels [N].
    """
    from torchvision import datasets as torchvisions  # two seconds, for few of the modules that import this one

    source, train = SOURCES[name], part == "train"
    classes, per_class = len(source.classes), 2 if train else 1
    labels = np.random.default_rng(7).permutation(np.repeat(np.arange(classes), per_class))
    images = random_images(len(labels), source.shape, seed=train)
    match name:
        case "svhn":
            write_svhn(root, part, images, labels)
            url, file, _ = torchvisions.SVHN.split_list[part]
            found = {part: [url, file, md5_of(root / file)]}
            monkeypatch.setattr(torchvisions.SVHN, "split_list", torchvisions.SVHN.split_list | found)
        case "cifar10" | "cifar100":
            (write_cifar10 if name == "cifar10" else write_cifar100)(root, part, images, labels)
            known = torchvisions.CIFAR10 if name == "cifar10" else torchvisions.CIFAR100
            folder = root / known.base_folder
            files = [[file, md5_of(folder / file)] for file, _ in getattr(known, f"{part}_list")]
            monkeypatch.setattr(known, f"{part}_list", files)
            monkeypatch.setattr(known, "meta", known.meta | {"md5": md5_of(folder / known.meta["filename"])})
        case "emnist-letters":
            prefix = root / "EMNIST" / "raw" / f"emnist-letters-{part}"
            write_idx(prefix.with_name(f"{prefix.name}-images-idx3-ubyte"), images[:, 0].transpose(0, 2, 1))
            write_idx(prefix.with_name(f"{prefix.name}-labels-idx1-ubyte"), labels + 1)
        case _:
            folder = root / {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}[name] / "raw"
            prefix = "train" if train else "t10k"
            write_idx(folder / f"{prefix}-images-idx3-ubyte", images[:, 0])
            write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels)
    return images, labels


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


def assert_bit_equal(first: TrialState, second: TrialState, but: Sequence[str] = ()) -> None:
    """Equal in everything but the seconds that it took, and the fields named in `but`."""
    for field in dataclasses.fields(TrialState):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if field.name in ("seconds", *but):
            continue
        if isinstance(a, dict):
            assert list(a) == list(b), field.name
            assert all(torch.equal(a[name], b[name]) for name in a), field.name
        elif isinstance(a, Tensor):
            assert a.dtype == b.dtype, field.name
            assert torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)), field.name
        else:
            assert a == b, field.name


def beyond(k: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of (configuration, number of a task, ...) that fails for a task after the k-th."""

    def guarded(config: TrialConfig, number: int, *rest: Any) -> Any:
        assert number <= k, f"task {number} was looked at"
        return function(config, number, *rest)

    return guarded


def same_samples(first: Samples, second: Samples) -> bool:
    """Whether every member takes the same inputs and labels from both, and the rows behind them are the same."""
    if first.sizes != second.sizes or not torch.equal(first.rows, second.rows):
        return False
    pairs = [(everything(first, m), everything(second, m)) for m in range(len(first.sizes))]
    return all(torch.equal(ours[part], theirs[part]) for ours, theirs in pairs for part in (0, 1))
