"""Builds the application."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.staticfiles import StaticFiles
from fastapi.telemetry import TelemetryConfig
from fastapi_offline import FastAPIOffline

from common.cores import cores
from common.float32 import set_float32
from evaluation import Catalog
from service.accounts.audit import auditing
from service.accounts.callers import Callers
from service.cluster.cluster import RayCluster
from service.cluster.content import ContentStore
from service.http import problems
from service.http.access.key_description import with_keys
from service.http.dataset_counts import DatasetCounts
from service.http.deps import Service
from service.http.load_shedding import SHEDDING, LoadShedding
from service.http.middleware.api_keys import ApiKeys, Failures
from service.http.middleware.audit import Audit
from service.http.middleware.body_limit import BodyLimit
from service.http.middleware.compression import Compression
from service.http.middleware.error_pages import ErrorPages
from service.http.middleware.head import Head
from service.http.middleware.hosts import Hosts
from service.http.middleware.json_limit import JsonLimit
from service.http.middleware.origins import Origins
from service.http.middleware.prefix import Prefix
from service.http.middleware.security_headers import SecurityHeaders
from service.http.middleware.telemetry import Telemetry
from service.http.model_structures import ModelStructures
from service.http.pages.report_sections import ReportSections
from service.http.pages.result_rows import ResultRows
from service.http.pages.routes import PAGES, sign_in
from service.http.pages.templates import WEB
from service.http.routes import (
    comparisons,
    datasets,
    details,
    docs,
    evaluation_control,
    evaluations,
    explain,
    health,
    models,
    predictions,
    protocols,
    queue,
    serving,
)
from service.http.watching import Watching
from service.http.webhooks import describe
from service.jobs.dispatcher import Dispatcher
from service.jobs.executors import DeviceExecutor, available_devices
from service.jobs.queue import Queue
from service.jobs.removal.retention import Retention
from service.jobs.reports.counted import Reports
from service.jobs.reports.measurements import Measurements
from service.jobs.store import Store
from service.jobs.webhooks.sender import Webhooks
from service.jobs.webhooks.targets import WebhookTargets
from service.kserve import repository
from service.kserve import routes as inference
from service.kserve.tensors import STATUSES
from service.metrics import Metrics, shared_folder
from service.serving.control import Control
from service.serving.deployments import Deployments
from service.serving.limits import Limits
from service.serving.pictures.explainer import Explainer
from service.serving.scheduler import Scheduler
from service.serving.shared_counts import SharedCounts
from service.settings import Settings

FORM_OVERHEAD_BYTES = 2**20
"""What a form may have beside its file: boundaries, headers, a card."""

RESOURCES = (
    predictions,
    inference,
    health,
    models,
    serving,
    repository,
    explain,
    datasets,
    protocols,
    evaluations,
    evaluation_control,
    queue,
    details,
    comparisons,
    *PAGES,
)
"""Routes that need a key, if there are any; a request is compared with one after the other, so those of predictions come first."""

CORS: dict[str, Any] = {
    "allow_methods": ("GET", "HEAD", "POST", "PUT", "DELETE"),
    "allow_headers": ("*",),
    "expose_headers": ("Location", "Retry-After", "Server-Timing", "X-Request-ID", inference.HEADER_BYTES),
}
"""What pages of allowed origins may send and read; their requests have no cookies."""

DESCRIPTION = "Robustness evaluation of image classifiers: predictions, rotations and flips, adversarial attacks."

SPANS: TelemetryConfig = {"auto_configure": True, "operation_spans": False, "metrics": False, "logs": False}
"""Spans of requests where the variables `OTEL_*` ask for them; what is measured beside them is in `/metrics`."""


def create_app(settings: Settings) -> FastAPI:
    """Build the application; its database, device processes and threads start and end with it."""
    callers = Callers(settings)
    app = FastAPIOffline(  # documentation pages without files from other hosts
        title="withstand",
        version=version("withstand"),
        description=DESCRIPTION,
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        telemetry=SPANS,
        redirect_slashes=False,  # a redirect would repeat whatever host was asked for
        responses={"4XX": problems.described(), "5XX": problems.described()},
    )
    app.state.settings, app.state.metrics, app.state.callers = settings, Metrics(), callers
    forms = {
        settings.root_path + models.router.prefix: settings.max_checkpoint_bytes + FORM_OVERHEAD_BYTES,
        settings.root_path + datasets.router.prefix: settings.max_dataset_bytes + FORM_OVERHEAD_BYTES,
    }
    app.add_middleware(Compression)
    app.add_middleware(JsonLimit)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, forms=forms)
    app.state.failures = Failures()
    app.add_middleware(ApiKeys, callers=callers, root_path=settings.root_path, failures=app.state.failures)
    app.add_middleware(Audit)
    app.add_middleware(Origins, allowed=settings.cors_origins)
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=settings.cors_origins, **CORS)
    app.add_middleware(Hosts, allowed=(*settings.allowed_hosts, settings.host))
    app.add_middleware(ErrorPages, root=settings.root_path)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(Telemetry, metrics=app.state.metrics)
    app.add_middleware(Head)
    app.add_middleware(Prefix, root_path=settings.root_path)
    problems.install(app, STATUSES)
    is_open = (docs.router, health.probes, inference.probes, sign_in.router)
    for router in (*(each.router for each in RESOURCES), *is_open):
        app.include_router(router)
    described = app.openapi
    app.openapi = lambda: with_keys(described()) if callers.are_needed else described()
    app.mount("/static", StaticFiles(directory=WEB / "static"))
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[dict[str, LoadShedding]]:
    settings: Settings = app.state.settings
    set_float32("ieee")
    evaluated = settings.catalog()  # in processes of the devices
    catalog = replace(evaluated, isolated=True)
    callers: Callers = app.state.callers
    store = Store.at(settings.database)
    devices = settings.devices or tuple(available_devices())
    metrics: Metrics = app.state.metrics
    shared = shared_folder()
    deployments = Deployments(catalog, settings.data_dir / "serving")
    scheduler = _scheduler(settings, catalog, deployments, devices, metrics, SharedCounts(shared, settings.processes))
    control = Control(scheduler, deployments, shared)
    threads = max(1, cores() // len(devices))
    limit_s, form = settings.shard_timeout_s, settings.log_format
    executors = {each: DeviceExecutor(each, timeout_s=limit_s, threads=threads, log_format=form) for each in devices}
    queue = Queue(store)
    cluster = _cluster(settings, queue)
    reports = Reports(store)
    webhooks = _webhooks(settings, reports)
    there = cluster.executors if cluster else lambda: executors
    dispatcher = Dispatcher(store, evaluated, there, webhooks, Retention(settings.keep_days, settings.keep_gb), metrics)
    explainer = Explainer(catalog, devices[0], timeout_s=settings.predict_timeout_s)
    dataset_counts, model_structures = DatasetCounts(catalog), ModelStructures()
    app.state.service = Service(
        settings,
        callers,
        catalog,
        store,
        queue,
        dispatcher,
        deployments,
        scheduler,
        control,
        explainer,
        metrics,
        devices[0],
        dataset_counts,
        model_structures,
        Measurements(store, reports),
        reports,
        ReportSections(reports, settings.root_path),
        ResultRows(reports, settings.root_path),
        Watching(store, settings.root_path),
    )
    callers.start(store.database)
    scheduler.start()
    control.start()
    dispatcher.start()
    if cluster is not None:
        cluster.start(dispatcher.active)
    try:
        with auditing(settings.audit_log, settings.log_format):
            async with _rpc(app, settings):
                yield {SHEDDING: LoadShedding(scheduler, metrics)}
    finally:
        parts = (
            dispatcher,
            cluster,
            webhooks,
            control,
            scheduler,
            explainer,
            dataset_counts,
            model_structures,
            callers,
        )
        for part in parts:
            if part is not None:
                part.stop()
        for executor in executors.values():
            executor.shutdown(cancel_futures=True)
        store.close()


def _cluster(settings: Settings, queue: Queue) -> RayCluster | None:
    if settings.ray_address is None:
        return None
    most = settings.ray_max_gpus
    return RayCluster(
        settings.ray_address,
        store=ContentStore(settings.store_url) if settings.store_url else None,
        cache=settings.ray_cache_dir,
        timeout_s=settings.shard_timeout_s,
        log_format=settings.log_format,
        demand=None if most is None else lambda: min(most, queue.useful_devices()),
    )


def _webhooks(settings: Settings, reports: Reports) -> Webhooks | None:
    if not settings.webhook_hosts or settings.webhook_secret is None:
        return None
    body = partial(describe, reports=reports, root=settings.root_path)
    return Webhooks(WebhookTargets(settings.webhook_hosts), settings.webhook_secret, body)


@asynccontextmanager
async def _rpc(app: FastAPI, settings: Settings) -> AsyncGenerator[None]:
    """Serve gRPC beside HTTP, if the settings ask for it."""
    if settings.grpc_port is None:
        yield
        return
    from service.kserve.rpc import serving_rpc  # noqa: PLC0415  # it needs an extra

    async with serving_rpc(app, settings, app.state.callers) as app.state.grpc_port:
        yield


def _scheduler(
    settings: Settings,
    catalog: Catalog,
    deployments: Deployments,
    devices: Sequence[str],
    metrics: Metrics,
    counts: SharedCounts,
) -> Scheduler:
    limits = Limits(
        images=settings.queue_images,
        wait_s=settings.queue_wait_s,
        memory_bytes=settings.model_memory_bytes,
        timeout_s=settings.predict_timeout_s,
    )
    return Scheduler(
        catalog,
        deployments,
        _whole(devices),
        limits=limits,
        metrics=metrics,
        key_images=settings.key_images,
        pixels=settings.queue_pixels,
        key_pixels=settings.key_pixels,
        counts=counts,
    )


def _whole(devices: Sequence[str]) -> list[str]:
    """Evaluations share out a CPU, predictions have it as one device."""
    return list(dict.fromkeys("cpu" if each.startswith("cpu") else each for each in devices))
