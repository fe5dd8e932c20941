"""How well does plain L2 to the old parameters work, a custom regularizer without EWC's importance?"""

from clsearch import LogRange, PenaltyOutput, Study, register


class PlainL2:
    """penalty_factor * |θ - θ*|² over the backbone; θ* are the parameters after the last task."""

    logs = ()
    trains_head = False

    def prepare(self, network, benchmark, task, memory, hyperparameters):
        factor = hyperparameters["penalty_factor"]  # [M], a number per seed
        old = {name.removeprefix("l2/"): value for name, value in memory.items() if name.startswith("l2/")}

        def penalty(student, batch):
            changes = [(student.params[name] - value).flatten(1).square().sum(1) for name, value in old.items()]
            return PenaltyOutput(factor * sum(changes))

        return penalty if old else None  # no penalty in task 1

    def remember(self, network, benchmark, task, params, memory):
        return memory | {f"l2/{name}": value for name, value in params.items() if not name.startswith("head.")}


register("plain_l2", lambda config: PlainL2(), settings=["penalty_factor"])

study = Study(
    name="plain_l2",
    question=__doc__,
    algorithm="plain_l2",
    space={"penalty_factor": LogRange(1e-4, 10)},
    benchmark="permuted-digits",
    tasks=5,
    optimizer="adam",
    learning_rate=0.001,
    epochs=10,
    trials=16,
)

if __name__ == "__main__":
    study.main()
