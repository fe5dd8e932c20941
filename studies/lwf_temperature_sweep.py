"""Which distillation factor and temperature should LwF use, and how far do the two trade off against each other?"""

from clsearch import LogRange, Study

study = Study(
    name="lwf_temperature_sweep",
    question=__doc__,
    algorithm="lwf",
    space={
        "distillation_factor": LogRange(1e-3, 1e3),
        "distillation_temperature": LogRange(0.05, 50),
    },
    benchmark="split-digits",
    hidden=(256, 256),
    learning_rate=0.2,
    epochs=10,
)

if __name__ == "__main__":
    study.main()
