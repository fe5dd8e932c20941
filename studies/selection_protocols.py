"""What does a search believe of its choice under each selection protocol, and what is the choice worth?"""

from clsearch import Comparison

comparison = Comparison(
    name="selection_protocols",
    question=__doc__,
    kind="protocols",
    algorithm="ewc",
    studies={
        protocol: {"protocol": protocol, "references": ()}
        for protocol in ("end_of_sequence", "first_k", "two_phase", "continual")
    },
    report_benchmark="rotated-digits",  # of two_phase
    benchmark="permuted-digits",
    tasks=10,
    hidden=(256,),
    optimizer="adam",
    learning_rate=3e-3,
    epochs=5,
    trials=16,
)

if __name__ == "__main__":
    comparison.main()
