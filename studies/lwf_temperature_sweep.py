"""Which distillation factor and temperature should LwF use?"""

from clsearch import SPACES, Study

study = Study(
    name="lwf_temperature_sweep",
    question=__doc__,
    algorithm="lwf",
    space=SPACES["lwf"],
    benchmark="split-digits",
    hidden=(100,),
    epochs=10,
    batch_size=32,
    learning_rate=0.1,
)

if __name__ == "__main__":
    study.main()
