"""Open test data: once for a choice, after the opening is recorded; before the search, only check that it decodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from clsearch.common.deadline import no_endless_sockets
from clsearch.common.errors import ConfigError, Refusal
from clsearch.config.trial import TrialConfig
from clsearch.data.datasets import Data, ImageFolder
from clsearch.data.image_folder import digest_words, list_images
from clsearch.execution.data_loading import unreadable
from clsearch.planning.plan import Plan
from clsearch.planning.targets import targets_of
from clsearch.records.test_ledger import Opening, check_ledger, record_opening
from clsearch.tasks.test_data import check_test, read_test, sealed_reader

WITHOUT = ", as test data; or leave the final evaluation out (--no-final)"
"""What to do if test data cannot be used."""


class SealedError(RuntimeError):
    """Test data cannot be opened, or the opening cannot be recorded. The findings of the search are kept."""


def open_test(
    results: Path,
    study: str,
    config: TrialConfig,
    values: Mapping[str, Any],
    seeds: Sequence[int],
    searched: Sequence[int],
    on_opening: Callable[[Opening], None] = lambda opening: None,
) -> tuple[Data, Opening]:
    """Open the test data of a benchmark for a chosen configuration. No other function returns test data.

    Args:
        results: The results folder; its ledger records the opening before the data are read.
        study: The name of the study, for the ledger.
        config: The configuration, which names the benchmark.
        values: The chosen hyperparameters.
        seeds: The seeds to measure on.
        searched: The seeds of the search.
        on_opening: Called after the opening is recorded and before the data are read.

    Raises:
        ValueError: The search used one of the seeds.
        SealedError: The data cannot be read, or the opening cannot be recorded.
    """
    if used := sorted({*seeds} & {*searched}):
        raise ValueError(f"seeds: must be fresh, none that the search used; got {' '.join(map(str, used))} among them")
    try:
        opening = record_opening(
            results, test_identity(config), study, config.algorithm, values, seeds, lasting_identities(config)
        )
    except ConfigError as error:
        raise SealedError("; ".join(error.problems)) from None
    except (OSError, ValueError, KeyError) as error:
        raise SealedError(f"results: the ledger of test data must be whole and writable; got: {error!r}") from None
    on_opening(opening)
    return read_for_evaluation(partial(read_test, config), config), opening


def test_identity(config: TrialConfig) -> str:
    """Return the identity of test data: the source's name, or a digest of a folder's test images."""
    read = config.source.read
    if isinstance(read, ImageFolder):
        return list_images(read.folder, "test", sorted(config.source.classes)).identity
    return config.source.name


def lasting_identities(config: TrialConfig) -> tuple[str, ...]:
    """Return digests of the place, and of the name and the classes, of a user's own images.

    They stay the same when a file is mended, while `test_identity` changes. A source with a name needs none.
    """
    read = config.source.read
    if not isinstance(read, ImageFolder):
        return ()
    folder = read.folder.resolve()
    return digest_words(["place", str(folder)])[:16], digest_words(
        ["name", folder.name, *sorted(config.source.classes)]
    )[:16]


def check_sealed(plan: Plan) -> None:
    """Check before the search that the final evaluation will find usable test data and a whole ledger.

    The sealed module decodes the data, and says only whether it could.

    Raises:
        ConfigError: Test data cannot be decoded, or the ledger is damaged.
    """
    if not plan.options.final:
        return
    check_ledger(plan.folder.parent)
    for config in {target.config.source: target.config for target in targets_of(plan)}.values():
        try:
            check_test(config)
        except ConfigError as error:
            raise ConfigError(Refusal(problem.rule, f"{problem}{WITHOUT}") for problem in error.problems) from None
        except Exception as error:  # readers raise many types
            problem = unreadable(config, False, error)
            raise ConfigError([Refusal(problem.rule, f"{problem}{WITHOUT}")]) from None


def fetch_test(plan: Plan) -> None:
    """Download the test files that the final evaluation needs, before the search.

    torchvision's reader decodes the files that it downloads; the decoded data are discarded here.

    Raises:
        ConfigError: The files cannot be downloaded.
    """
    for config in (plan.config, plan.report or plan.config):
        if plan.options.final and config.source.missing_files(config.data_root, "test"):
            try:
                with no_endless_sockets():
                    sealed_reader(config)(config.data_root, True, None)
            except Exception as error:  # readers raise many types
                raise ConfigError([unreadable(config, True, error)]) from None


def read_for_evaluation(read: Callable[[], Data], config: TrialConfig) -> Data:
    """Read training or test data of a configuration. Raises SealedError if they cannot be read."""
    try:
        return read()
    except ConfigError as error:
        raise SealedError("; ".join(error.problems)) from None
    except Exception as error:  # readers raise many types
        raise SealedError(unreadable(config, False, error)) from None
