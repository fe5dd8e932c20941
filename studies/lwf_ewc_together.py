"""Where parameters are held by EWC, does distillation still help, and does holding help where LwF distils?"""

from clsearch import Study

study = Study(
    name="lwf_ewc_together",
    question=__doc__,
    algorithm="lwf_ewc",
    benchmark="permuted-digits",
    tasks=5,
    hidden=(256,),
    optimizer="adam",
    learning_rate=3e-3,
    epochs=5,
    penalty_p_norm=2,
    references=("finetuning", "joint"),
)

if __name__ == "__main__":
    study.main()
