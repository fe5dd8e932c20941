"""How tests look at what a configuration refuses."""

import pytest

from clsearch.common.errors import ConfigError
from clsearch.methods.registry import configure


def refusal(algorithm: str, settings: dict) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        configure(algorithm, settings)
    return caught.value
