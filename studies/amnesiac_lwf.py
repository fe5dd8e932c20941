"""How much accuracy does LwF lose to come close to a model that never saw the unlearned tasks?"""

from clsearch import LogRange, Study

study = Study(
    name="amnesiac_lwf",
    question=__doc__,
    algorithm="amnesiac_lwf",
    benchmark="split-digits",
    unlearn={3: 1, 5: 2},
    epochs=10,
    space={"distillation_factor": LogRange(1e-2, 1e2), "distillation_temperature": LogRange(0.1, 10)},
    objectives=("average_accuracy", "unlearning/distance"),
    trials=32,
    seeds=3,
)

if __name__ == "__main__":
    study.main()
