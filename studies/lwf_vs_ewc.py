"""LwF, EWC or both: which keeps more on the same budget, and is the difference more than luck?"""

from clsearch import Comparison

comparison = Comparison(
    name="lwf_vs_ewc",
    question=__doc__,
    kind="methods",
    algorithm="lwf_ewc",  # whose options are all of theirs
    studies={
        "finetuning": {"algorithm": "finetuning", "references": ("joint",)},
        "lwf": {"algorithm": "lwf", "references": ()},
        "ewc": {"algorithm": "ewc", "references": ()},
        "lwf_ewc": {"algorithm": "lwf_ewc", "references": ()},
    },
    benchmark="permuted-digits",
    tasks=5,
    hidden=(256,),
    optimizer="adam",
    learning_rate=3e-3,
    epochs=5,
    trials=16,
)

if __name__ == "__main__":
    comparison.main()
