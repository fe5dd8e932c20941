"""How strongly should EWC hold on to old parameters, and is the square the right distance to hold them with?"""

from clsearch import LogRange, Range, Study

study = Study(
    name="ewc_penalty_sweep",
    question=__doc__,
    algorithm="ewc",
    space={
        "penalty_factor": LogRange(1e-1, 1e5),
        "penalty_p_norm": Range(1, 3),
    },
    benchmark="permuted-digits",
    tasks=5,
    hidden=(256,),
    optimizer="adam",
    learning_rate=2e-3,
    epochs=10,
)

if __name__ == "__main__":
    study.main()
