"""Does distillation help in addition to EWC, and does EWC help in addition to LwF?"""

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
