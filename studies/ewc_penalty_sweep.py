"""Which EWC penalty factor and which exponent p keep most, and is p = 2 the right choice?"""

from clsearch import Study

study = Study(
    name="ewc_penalty_sweep",
    question=__doc__,
    algorithm="ewc",  # factor 1e-1 to 1e5, logarithmic, unless --fisher implies another range; p from 1 to 3
    benchmark="permuted-digits",
    tasks=5,
    hidden=(256,),
    optimizer="adam",
    learning_rate=3e-3,
    epochs=5,
)

if __name__ == "__main__":
    study.main()
