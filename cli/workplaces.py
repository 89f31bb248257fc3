"""Where the command line lets an evaluation be computed: here, by jobs of a Slurm cluster, or at a service."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import evaluation
from cli.exit_codes import FAILURE, INTERRUPTED, end
from cli.progress import images_progress
from evaluation import Catalog, Estimate, EvaluationSpec, Format, Report, ResultFolder, ShardResult, image_rows
from evaluation.local import Shards
from withstand import Client
from withstand.answers import ENDED
from withstand.events import require_done

Write = Callable[[Format], bytes]
"""Writes a report in a format."""


class Workplace(Protocol):
    """Where an evaluation is computed."""

    def estimate(self) -> Estimate:
        """Estimate what the evaluation would cost."""
        ...

    def run(self) -> tuple[Report, Write]:
        """Compute the evaluation behind a progress bar; gives its report, and what writes it in other formats."""
        ...


@dataclass(frozen=True)
class Here:
    """This machine.

    Attributes:
        spec: of the evaluation.
        catalog: where its models and its data set are.
        device: to compute on.
        folder: where results are stored.
    """

    spec: EvaluationSpec
    catalog: Catalog
    device: str
    folder: Path

    @property
    def stored(self) -> ResultFolder:
        """Finished shards."""
        return ResultFolder(self.folder / "results")

    def estimate(self) -> Estimate:
        """Estimate what is not stored yet."""
        plan = evaluation.make_plan(self.spec, self.catalog, device=self.device)
        return evaluation.estimate(plan, self.catalog, self.device, self.stored.tallies(plan, plan.shards))

    def run(self) -> tuple[Report, Write]:
        """Compute what is not stored yet."""
        results: list[ShardResult] = []
        with images_progress() as show:

            def on_shard(result: ShardResult, done: int, total: int) -> None:
                results.append(result)
                show(description=f"{result.shard.model}, {self.spec.conditions[result.shard.condition].title}")

            report = evaluation.evaluate(
                self.spec,
                catalog=self.catalog,
                device=self.device,
                results=self.stored,
                on_shard=on_shard,
                on_progress=lambda done, total: show(completed=done, total=total),
                on_look=lambda done, total: show(completed=done, total=total, description="decoding"),
            )
        return report, self._writing(report, results)

    def _writing(self, report: Report, results: list[ShardResult]) -> Write:
        files = self.catalog.open_dataset(self.spec.dataset).files
        return lambda form: form.to_bytes(report, lambda: image_rows(report.plan, results, files))


@dataclass(frozen=True)
class OnSlurm(Here):
    """The nodes of a Slurm cluster, which see the same folders.

    Attributes:
        jobs: how many there are.
        options: of each, as KEY=VALUE.
    """

    jobs: int
    options: list[str]

    def run(self) -> tuple[Report, Write]:
        """Let jobs store the results of all shards."""
        try:
            from cli import slurm  # noqa: PLC0415  # it needs an extra
        except ModuleNotFoundError as error:
            raise ValueError("--slurm needs the library submitit: uv pip install '.[slurm]'") from error
        parameters = slurm.parse_parameters(self.options)
        stored = self.stored
        stored.require_writable()
        plan = evaluation.make_plan(self.spec, self.catalog, device=self.device or "cuda")
        whole = Shards(plan, plan.shards, self.catalog, stored)
        parts = [slurm.Part(each, self.device) for each in slurm.cut(whole, self.jobs)]
        with images_progress() as show:
            queued = slurm.submit(parts, self.folder / "slurm", parameters)
            try:
                slurm.wait(queued, whole, lambda done, total: show(completed=done, total=total))
            except slurm.JobsFailedError as error:
                end(str(error), FAILURE)
        results = whole.run(self.device or "cpu")  # all are found
        report = evaluation.merge(plan, results)
        return report, self._writing(report, results)


@dataclass(frozen=True)
class AtService:
    """A running service.

    Attributes:
        spec: of the evaluation.
        client: of the service.
    """

    spec: EvaluationSpec
    client: Client

    def estimate(self) -> Estimate:
        """Let the service estimate."""
        return Estimate.model_validate(self.client.estimate(self.spec.model_dump(mode="json")))

    def run(self) -> tuple[Report, Write]:
        """Submit the evaluation and wait for it. Ctrl-C ends the command; the evaluation goes on."""
        job = self.client.evaluate(self.spec.model_dump(mode="json"))
        try:
            self._watch(job.id)
        except KeyboardInterrupt:
            again = f"withstand report {job.id} --server {self.client.url}"
            end(f"evaluation {job.id} goes on at {self.client.url}; see its report with: {again}", INTERRUPTED)
        return Report.model_validate(job.report()), lambda form: job.report_as(form.name)

    def _watch(self, evaluation_id: str) -> None:
        with images_progress() as show:
            for state in self.client.watch(evaluation_id):
                progress = state["progress"]
                show(completed=progress["images_done"], total=progress["images_total"], description=state["status"])
                if state["status"] in ENDED:
                    require_done(state)
