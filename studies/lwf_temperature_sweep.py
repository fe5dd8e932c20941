"""Which distillation factor and temperature should LwF use, and how far do the two trade off against each other?"""

from clsearch import SPACES, Study

study = Study(
    name="lwf_temperature_sweep",
    question=__doc__,
    algorithm="lwf",
    space=SPACES["lwf"],  # factor 1e-4 to 1e3, temperature 1e-2 to 1e2, both logarithmic
    benchmark="split-digits",
    hidden=(256, 256),
    learning_rate=0.2,
    epochs=10,
)

if __name__ == "__main__":
    study.main()
