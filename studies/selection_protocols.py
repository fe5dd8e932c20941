"""How does the search's score of its choice differ from the score on fresh seeds under each selection protocol?"""

from clsearch import Comparison

comparison = Comparison(
    name="selection_protocols",
    question=__doc__,
    kind="protocols",
    algorithm="ewc",
    studies={
        "end_of_sequence": {"protocol": "end_of_sequence", "references": ()},
        "first_k": {"protocol": "first_k", "references": ()},
        "two_phase": {"protocol": "two_phase", "references": ()},
        "continual": {"protocol": "continual", "references": (), "penalty_p_norm": 2, "learning_rate": 3e-3},
    },
    report_benchmark="rotated-digits",  # for two_phase
    benchmark="permuted-digits",
    tasks=10,
    hidden=(256,),
    optimizer="adam",
    learning_rate=3e-3,
    epochs=5,
    trials=8,
)

if __name__ == "__main__":
    comparison.main()
