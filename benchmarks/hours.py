"""How long the trainings of `benchmarks.results` will take, from those whose outcomes are kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.plans import PLANS, Job, open_fold
from benchmarks.scores import kept_of
from benchmarks.sets import SETS
from benchmarks.study import DENSENET, EEEA, LITE0, LITE2, LITE2_224, OFA
from benchmarks.tables import line
from medistill.training.batches import training_rows

LIKE = {LITE2_224: (LITE2, (224 / 96) ** 2), OFA: (EEEA, 2.0)}
"""Networks that have not been trained yet: another one, and how many times as long they take."""
OTHERS = {LITE2: 0.021, DENSENET: 0.03, LITE0: 0.015, EEEA: 0.014}
"""Seconds of a core for an image of 96 px in an epoch, where no outcome is kept."""
ONCE = 10.0
"""Seconds for what a training does once: start, predictions."""


@dataclass(frozen=True)
class Pace:
    """Seconds for an image in an epoch.

    Attributes:
        root: folder of all data.
        of_networks: by network; validation, and answers of teachers, are in them in proportion.
    """

    root: Path | None
    of_networks: dict[str, float]

    @classmethod
    def of(cls, root: Path | None) -> "Pace":
        """The fastest of the trainings that are kept, network by network, since others may have used the cores, too."""
        found: dict[str, float] = {}
        for data, plan in PLANS.items():
            if not SETS[data].here(root):
                continue
            rows = [(name, None) for name in plan.epochs if name not in plan.students]
            rows += [(student, row) for student, own in plan.students.items() for row in own]
            for network, row in rows:
                images = _images(Job(data, 0, network, row, 0), root)
                for outcome in kept_of(data, network, row)[1].values():
                    found[network] = min(found.get(network, 1e9), outcome.seconds / (images * plan.epochs[network]))
        return cls(root, found)

    def seconds(self, job: Job) -> float:
        """How long a training takes on one core."""
        like, times = LIKE.get(job.network, (job.network, 1.0))
        known = self.of_networks.get(job.network)
        pace = times * self.of_networks.get(like, OTHERS[like]) if known is None else known
        return ONCE + pace * _images(job, self.root) * PLANS[job.data].epochs[job.network]


def _images(job: Job, root: Path | None) -> int:
    """Number of images of an epoch; with unlabelled ones there are fewer epochs, and as many images in all."""
    return len(training_rows(open_fold(job.data, job.fold, root), unlabelled=False))


def overview(left: Sequence[Sequence[Job]], pace: Pace) -> str:
    """What is left to train and for how long, as a table of data sets and students."""
    jobs = [job for phase in left for job in phase]
    rows: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        rows.setdefault((job.data, job.network), []).append(job)
    lines = [line(["data set", "network", "trainings", "core-hours"]), line(["---", "---", "---:", "---:"])]
    for (data, network), own in rows.items():
        lines.append(line([data, network, str(len(own)), f"{sum(map(pace.seconds, own)) / 3600:.1f}"]))
    total = sum(map(pace.seconds, jobs)) / 3600
    return "\n".join([*lines, line(["all", "", str(len(jobs)), f"{total:.1f}"])])
