"""LwF, EWC or both: which has the best accuracy on the same budget, and is the difference significant?"""

from clsearch import Comparison

comparison = Comparison(
    name="lwf_vs_ewc",
    question=__doc__,
    kind="methods",
    algorithm="lwf_ewc",  # has the options of all studies
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
