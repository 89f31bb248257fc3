"""A dispatcher on an executor of threads, for its tests."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from evaluation import Catalog, EvaluationSpec, Plan, ShardResult, make_plan
from evaluation.results.protocol import Work
from service.jobs.dispatcher import Dispatcher
from service.jobs.evaluations import Evaluation
from service.jobs.store import Store

Start = Callable[..., Dispatcher]


class Threads(ThreadPoolExecutor):
    """One thread, and lists of what it was given."""

    def __init__(self) -> None:
        super().__init__(1)
        self.futures: list[Future[Any]] = []
        self.known: list[ShardResult | None] = []

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(*args, **kwargs)
        self.futures.append(future)
        self.known += [each.known for each in args if isinstance(each, Work)]
        return future


def plan_of(catalog: Catalog, **fields: object) -> Plan:
    return make_plan(EvaluationSpec.model_validate({"models": ["tiny"], "dataset": "shapes"} | fields), catalog)


def read(store: Store, plan: Plan) -> Evaluation:
    found = store.evaluation(plan.id)
    assert found is not None
    return found
