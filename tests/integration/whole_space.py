"""A study over numbers, names, widths and a condition, as a script that can be killed."""

import sys

from clsearch import Choice, IntRange, LogRange, Range, Study, When

TRIALS = 13
"""More than tpe draws at random."""


def study(name: str = "whole_space", **settings: object) -> Study:
    """Make the study; its trials take about a second."""
    given = {
        "algorithm": "lwf",
        "name": name,
        "space": [
            {
                "learning_rate": LogRange(1e-2, 1e-1),
                "optimizer": Choice("sgd", "adam"),
                "epochs": IntRange(1, 3),
                "hidden": Choice((16,), (24, 12)),
                "distillation_factor": LogRange(1e-2, 10),
            },
            When("optimizer", "sgd", {"momentum": Range(0, 0.9)}),
        ],
        "references": ("finetuning",),
        "trials": TRIALS,
        "seeds": 2,
        "final": False,
    }
    return Study(**given | settings)


if __name__ == "__main__":
    study().main(sys.argv[3:])
