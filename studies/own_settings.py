"""How strongly, how long and in which norm should a network be pulled to its old parameters?"""

from clsearch import LogRange, PenaltyOutput, Setting, Study, register


class Pull:
    """strength * Σ_k ‖θ - θ*_k‖ in a norm, with the parameters θ*_k after each of the last `window` tasks."""

    logs, trains_head = (), False

    def __init__(self, norm):
        self.power = {"l1": 1, "l2": 2}[norm]

    def prepare(self, network, benchmark, task, memory, hyperparameters):
        old = {name.removeprefix("pull/"): value for name, value in memory.items() if name.startswith("pull/")}
        first = task.index - hyperparameters["window"]  # [M], the oldest task that pulls
        counts = {key: (first <= int(key.partition("/")[0])).float() for key in old}  # [M], 0 or 1

        def penalty(student, batch):
            away = {key: student.params[key.partition("/")[2]] - value for key, value in old.items()}
            sums = [counts[key] * each.abs().pow(self.power).flatten(1).sum(1) for key, each in away.items()]
            return PenaltyOutput(hyperparameters["strength"] * sum(sums))

        return penalty if old else None

    def remember(self, network, benchmark, task, params, memory):
        return memory | {f"pull/{task.index}/{n}": v for n, v in params.items() if not n.startswith("head.")}


settings = {
    "strength": Setting(float, 1.0, "Weight of the pull.", gt=0, range=LogRange(1e-4, 1), symbol="s"),
    "window": Setting(int, 2, "Number of earlier tasks that pull.", ge=1),
    "norm": Setting(("l1", "l2"), "l2", "Norm of the distance."),
}
register("pull", lambda config: Pull(config.norm), settings=settings)
study = Study(name="own_settings", question=__doc__, algorithm="pull", benchmark="permuted-digits", tasks=4, epochs=5)

if __name__ == "__main__":
    study.main()
