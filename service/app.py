"""Builds the application."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.metadata import version

from fastapi import Depends, FastAPI
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline

from common.cores import cores
from common.float32 import set_float32
from service.http import problems
from service.http.dataset_counts import DatasetCounts
from service.http.deps import Service, require_key
from service.http.middleware.body_limit import BodyLimit
from service.http.middleware.compression import Compression
from service.http.middleware.load_shedding import LoadShedding
from service.http.middleware.prefix import Prefix
from service.http.middleware.telemetry import Telemetry
from service.http.pages.report_sections import ReportSections
from service.http.pages.templates import WEB
from service.http.routes import (
    comparisons,
    datasets,
    evaluations,
    explain,
    health,
    models,
    pages,
    predictions,
    protocols,
    serving,
)
from service.jobs.dispatcher import Dispatcher
from service.jobs.executors import DeviceExecutor, available_devices
from service.jobs.store import Store
from service.kserve import repository
from service.kserve import routes as inference
from service.kserve.tensors import STATUSES
from service.metrics import Metrics
from service.serving.deployments import Deployments
from service.serving.explainer import Explainer
from service.serving.predictor import Limits
from service.serving.scheduler import Scheduler
from service.settings import Settings

FORM_OVERHEAD_BYTES = 2**20
"""What a form may have beside its file: boundaries, headers, a card."""

RESOURCES = (
    models,
    predictions,
    serving,
    inference,
    repository,
    explain,
    datasets,
    protocols,
    evaluations,
    comparisons,
    pages,
)
"""Routes that need a key, if any are set."""

DESCRIPTION = "Robustness evaluation of image classifiers: predictions, rotations and flips, adversarial attacks."


def create_app(settings: Settings) -> FastAPI:
    """Build the application; its database, device processes and threads start and end with it."""
    app = FastAPIOffline(  # documentation pages without files from other hosts
        title="withstand",
        version=version("withstand"),
        description=DESCRIPTION,
        lifespan=_lifespan,
        redoc_url=None,
        responses={"4XX": problems.described(), "5XX": problems.described()},
    )
    app.state.settings, app.state.metrics = settings, Metrics()
    forms = {
        settings.root_path + models.router.prefix: settings.max_checkpoint_bytes + FORM_OVERHEAD_BYTES,
        settings.root_path + datasets.router.prefix: settings.max_dataset_bytes + FORM_OVERHEAD_BYTES,
    }
    app.add_middleware(Compression)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, forms=forms)
    app.add_middleware(LoadShedding)
    app.add_middleware(Telemetry, metrics=app.state.metrics)
    app.add_middleware(Prefix, root_path=settings.root_path)
    problems.install(app, STATUSES)
    for probes in (health.router, inference.probes):
        app.include_router(probes)
    for resource in RESOURCES:
        app.include_router(resource.router, dependencies=[Depends(require_key)])
    app.mount("/static", StaticFiles(directory=WEB / "static"))
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None]:
    settings: Settings = app.state.settings
    set_float32("ieee")
    evaluated = settings.catalog()  # in processes of the devices
    catalog = replace(evaluated, isolated=True)
    store = Store.at(settings.database)
    devices = settings.devices or tuple(available_devices())
    limits = Limits(
        images=settings.queue_images,
        wait_s=settings.queue_wait_s,
        memory_bytes=settings.model_memory_bytes,
        timeout_s=settings.predict_timeout_s,
    )
    metrics: Metrics = app.state.metrics
    deployments = Deployments(catalog, settings.data_dir / "serving")
    scheduler = Scheduler(
        catalog,
        deployments,
        _whole(devices),
        limits=limits,
        metrics=metrics,
        key_images=settings.key_images,
        pixels=settings.queue_pixels,
        key_pixels=settings.key_pixels,
    )
    threads = max(1, cores() // len(devices))
    executors = {each: DeviceExecutor(each, timeout_s=settings.shard_timeout_s, threads=threads) for each in devices}
    dispatcher = Dispatcher(store, evaluated, executors, settings.data_dir / "dispatcher.lock")
    explainer = Explainer(catalog, devices[0], timeout_s=settings.predict_timeout_s)
    dataset_counts = DatasetCounts(catalog)
    app.state.service = Service(
        settings,
        catalog,
        store,
        dispatcher,
        deployments,
        scheduler,
        explainer,
        metrics,
        devices[0],
        dataset_counts,
        ReportSections(store, settings.root_path),
    )
    scheduler.start()
    dispatcher.start()
    try:
        yield
    finally:
        dispatcher.stop()
        scheduler.stop()
        explainer.stop()
        dataset_counts.stop()
        for executor in executors.values():
            executor.shutdown(cancel_futures=True)
        store.close()


def _whole(devices: Sequence[str]) -> list[str]:
    """Evaluations share out a CPU, predictions have it as one device."""
    return list(dict.fromkeys("cpu" if each.startswith("cpu") else each for each in devices))
