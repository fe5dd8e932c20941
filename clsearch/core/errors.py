"""What is refused."""

from __future__ import annotations


class ConfigError(ValueError):
    """Refused input. Each of `problems` names the field, then the rule, then the value."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        """Workers send errors to the driver pickled; the default would pickle the joined text."""
        return type(self), (self.problems,)
