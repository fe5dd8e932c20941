"""What a penalty gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Terms:
    """penalty: [M] as it enters the loss, factor included. logged: name -> [M], reported beside it."""

    penalty: Tensor
    logged: dict[str, Tensor] = field(default_factory=dict)
