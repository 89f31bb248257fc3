"""Every setting of the service, with its default, unit and help; environment variables begin with WITHSTAND_."""

import ipaddress
import re
from base64 import b64decode
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from torch import cuda

import models
from common.cores import cores
from evaluation import Catalog
from evaluation.catalog import ZOO_DATASETS
from evaluation.data.pixel_cache import LIMIT_BYTES, PixelCache
from models import MAX_CHECKPOINT_BYTES
from service import DATA_DIR, DATABASE
from service.logs import LogFormat

PREFIX = "WITHSTAND_"
"""How the environment variables of settings begin."""

CORES_OF_A_PROCESS = 3
"""A picture needs Python's lock for over a third of the time that a core takes to decode it: more cores would wait for the lock."""

LOOPBACK_NAMES = frozenset({"localhost"})

_ORIGIN = re.compile(
    r"(https://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(?!:443$)|http://(localhost|127\.0\.0\.1)(?!:80$))(:[1-9][0-9]{0,4})?"
)

ApiKey = Annotated[str, Field(pattern="^[!-~]+$", description="visible ASCII characters, at least one")]
HostName = Annotated[
    str, Field(pattern=r"^(\*|[A-Za-z0-9._-]+)$", description="without port, such as robust.example.org")
]
WebhookHost = Annotated[str, Field(pattern=r"^[a-z0-9._:-]+$", description="a name or an address, in lower case")]


class Settings(BaseSettings):
    """How the service runs."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True)

    host: Annotated[str, Field(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="port to listen on; 0 takes a free one")] = 8000
    grpc_port: Annotated[
        int | None,
        Field(
            ge=0,
            le=65535,
            description="port of the open inference protocol over gRPC; empty is none, 0 takes a free one",
        ),
    ] = None
    root_path: Annotated[
        str,
        Field(
            pattern=r"^(/[A-Za-z0-9._~-]+)*$",
            description="path prefix at a reverse proxy, such as /withstand; stripped or not",
        ),
    ] = ""
    data_dir: Annotated[Path, Field(description="folder of the database, of what was added, of decoded pictures")] = (
        Path(DATA_DIR)
    )
    database_url: Annotated[
        str | None,
        Field(
            repr=False, description="such as postgresql://user:password@host/name; empty is SQLite in the data folder"
        ),
    ] = None
    model_dirs: Annotated[
        tuple[Path, ...], Field(description="folders with checkpoints and cards, beside the zoo")
    ] = ()
    dataset_dirs: Annotated[tuple[Path, ...], Field(description="folders with data sets, beside the zoo")] = ()
    devices: Annotated[
        tuple[str, ...],
        Field(description='such as ["cuda:0", "cuda:1"]; empty takes every GPU, or up to 4 shares of the CPU'),
    ] = ()
    ray_address: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z0-9._:/\[\]-]+$",
            description="Ray cluster that runs evaluations in place of the devices: head:6379 on one of its nodes, else "
            "ray://head:10001; empty is none",
        ),
    ] = None
    ray_max_gpus: Annotated[
        int | None,
        Field(
            ge=1,
            description="most GPUs to ask the cluster's autoscaler for: as many as shards wait; empty leaves the cluster as it is",
        ),
    ] = None
    store_url: Annotated[
        str | None,
        Field(
            description="where nodes of the cluster get models and data: a shared folder's path, or such as s3://bucket/folder; "
            "empty if they have the server's folders under the same paths"
        ),
    ] = None
    ray_cache_dir: Annotated[
        Path, Field(description="folder on each node of the cluster for what it got, and for decoded pictures")
    ] = Path("~/.cache/withstand")
    api_keys: Annotated[
        frozenset[ApiKey],
        Field(
            description="accepted API keys, beside those that `withstand keys` has made; beyond this machine keys are needed"
        ),
    ] = frozenset()
    admin_keys: Annotated[
        frozenset[ApiKey],
        Field(description="keys with the scope admin; as long as there are none, those of WITHSTAND_API_KEYS have it"),
    ] = frozenset()
    allowed_hosts: Annotated[
        tuple[HostName, ...],
        Field(description='names at which the service is called, beside its address; ["*"] lets every name pass'),
    ] = ()
    cors_origins: Annotated[
        tuple[str, ...],
        Field(
            description='origins of other sites whose pages may ask, with a key in a header: ["https://lab.example.org"]'
        ),
    ] = ()
    max_connections: Annotated[
        int, Field(ge=1, description="most open connections of a process, and at most half of its file descriptors")
    ] = 1000
    max_address_connections: Annotated[
        int, Field(ge=1, description="most open connections from one address; a reverse proxy is one address")
    ] = 400
    receive_timeout_s: Annotated[
        float, Field(gt=0, description="longest wait for a request, seconds; one more for each 4 KiB of its body")
    ] = 10.0
    workers: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=1, le=64)],
        Field(description="processes that answer HTTP on the port; auto is one, and with a GPU one for every 3 cores"),
    ] = "auto"
    max_body_bytes: Annotated[int, Field(ge=1, description="largest request body, bytes")] = 64 * 2**20
    max_checkpoint_bytes: Annotated[
        int, Field(ge=1, le=MAX_CHECKPOINT_BYTES, description="largest checkpoint that can be uploaded, bytes")
    ] = MAX_CHECKPOINT_BYTES
    max_dataset_bytes: Annotated[int, Field(ge=1, description="largest data set that can be uploaded, bytes")] = (
        4 * 2**30
    )
    allow_graphs: Annotated[
        bool,
        Field(description="accept uploads that bring their own graph (TorchScript, torch.export), which can run code"),
    ] = False
    max_pixels: Annotated[int, Field(ge=1, description="largest picture, width times height")] = 50_000_000
    max_images: Annotated[int, Field(ge=1, description="most pictures of one prediction request")] = 64
    request_pixels: Annotated[
        int,
        Field(ge=1, description="most pixels of all pictures of one request; 64 photos of 12 megapixels by default"),
    ] = 768_000_000
    queue_images: Annotated[
        int, Field(ge=1, description="most pictures waiting on a device; more are refused at once")
    ] = 256
    queue_wait_s: Annotated[
        float, Field(gt=0, description="refuse more pictures at once if the queue would take longer, seconds")
    ] = 0.65
    queue_pixels: Annotated[
        int,
        Field(ge=1, description="most pixels waiting to be decoded, 7 to 30 ms per million; more are refused at once"),
    ] = 1_536_000_000
    key_images: Annotated[
        int | None,
        Field(ge=1, description="most pictures that one API key may have waiting; empty is no limit of its own"),
    ] = None
    key_pixels: Annotated[
        int | None,
        Field(ge=1, description="most pixels that one API key may have waiting; empty is no limit of its own"),
    ] = None
    predict_timeout_s: Annotated[float, Field(gt=0, description="longest wait for a prediction, seconds")] = 30.0
    model_memory_bytes: Annotated[
        int, Field(ge=1, description="weights held on a device, bytes; models used longest ago make room")
    ] = 4 * 2**30
    compile: Annotated[
        bool,
        Field(
            description="let torch.compile make the copies that attacks look at on a GPU; a copy is used where it is faster and "
            "its gradients are those of the model"
        ),
    ] = False
    pixel_cache_bytes: Annotated[
        int,
        Field(ge=0, description="decoded pictures stored in the folder, bytes; data sets used longest ago make room"),
    ] = LIMIT_BYTES
    image_passes: Annotated[
        int,
        Field(
            ge=1,
            description="most passes through a model that one condition of an evaluation may take for an image, a gradient counted "
            "as two more; AutoAttack's standard version takes 11,639",
        ),
    ] = 200_000
    evaluation_passes: Annotated[
        int, Field(ge=1, description="most passes that an evaluation may take over all images, models and conditions")
    ] = 10_000_000_000
    key_passes: Annotated[
        int | None,
        Field(ge=1, description="most passes that unfinished evaluations of one API key may take; empty is no limit"),
    ] = None
    shard_timeout_s: Annotated[float, Field(gt=0, description="longest run of one shard, seconds")] = 3600.0
    keep_days: Annotated[
        float | None,
        Field(
            gt=0, allow_inf_nan=False, description="how long evaluations are kept after their end; empty is for ever"
        ),
    ] = None
    keep_gb: Annotated[
        float | None,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="most that stored results may take, GB, before the evaluations that ended longest ago are removed; "
            "empty is no limit",
        ),
    ] = None
    log_format: Annotated[LogFormat, Field(description="text, or json with one object on each line")] = "text"
    audit_log: Annotated[
        Path | None,
        Field(
            description="file that gets a line of JSON for each change and who made it; empty puts them into the log"
        ),
    ] = None
    webhook_hosts: Annotated[
        frozenset[WebhookHost],
        Field(description="hosts that may be called when an evaluation has ended; empty turns webhooks off"),
    ] = frozenset()
    webhook_secret: Annotated[
        str | None,
        Field(repr=False, description="signs what webhooks send: whsec_ and 24 to 64 random bytes in base64"),
    ] = None

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_exact(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for each in origins:
            _require_exact_origin(each)
        return origins

    @model_validator(mode="after")
    def _webhooks_are_signed(self) -> Self:
        if self.webhook_hosts and not _is_secret(self.webhook_secret or ""):
            raise ValueError(
                "webhooks need WITHSTAND_WEBHOOK_SECRET, whsec_ and 24 to 64 random bytes in base64, such as "
                'echo "whsec_$(openssl rand -base64 32)" prints'
            )
        return self

    @model_validator(mode="after")
    def _store_is_the_same_for_all(self) -> Self:
        if self.store_url and "://" not in self.store_url and not Path(self.store_url).is_absolute():
            raise ValueError(f"store_url must be an absolute path or a URL, and is {self.store_url!r}")
        return self

    @model_validator(mode="after")
    def _queue_holds_a_request(self) -> Self:
        if self.queue_images < self.max_images:
            raise ValueError(
                f"queue_images must be at least max_images: a queue of {self.queue_images} cannot hold {self.max_images} pictures"
            )
        if self.queue_pixels < self.request_pixels:
            raise ValueError(
                f"queue_pixels must be at least request_pixels: a queue of {self.queue_pixels} cannot hold {self.request_pixels}"
            )
        return self

    @property
    def processes(self) -> int:
        """How many processes answer HTTP: a CPU is busy with one, as forward passes do without Python's lock."""
        if self.workers != "auto":
            return self.workers
        on_gpu = any(device.startswith("cuda") for device in self.devices) if self.devices else cuda.is_available()
        return max(1, cores() // CORES_OF_A_PROCESS) if on_gpu else 1

    @property
    def database(self) -> Path | str:
        """Where evaluations are stored: a file, or a URL."""
        return self.database_url or self.data_dir / DATABASE

    def catalog(self) -> Catalog:
        """Where names of models and data sets are looked up: the zoo first, added models last."""
        store, datasets = self.data_dir / "models", self.data_dir / "datasets"
        folders = {folder.resolve(): folder for folder in (models.ZOO, *self.model_dirs, store)}  # each once
        return Catalog(
            (*folders.values(),),
            (ZOO_DATASETS, *self.dataset_dirs, datasets),
            store=store,
            notes=self.data_dir / "notes",
            pixel_cache=PixelCache(self.data_dir / "pixels", self.pixel_cache_bytes),
            dataset_store=datasets,
            compiled=self.compile,
        )


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK_NAMES


def _require_exact_origin(text: str) -> None:
    if text == "*":
        raise ValueError("* would let the pages of every site ask; list each origin, such as https://lab.example.org")
    if not _ORIGIN.fullmatch(text):
        raise ValueError(
            f"{text[:100]!r} is no origin as browsers send it: https://host or https://host:port in lower case, without a path and "
            "without port 443; http only for localhost"
        )


def _is_secret(text: str) -> bool:
    prefix, _, encoded = text.partition("_")
    try:
        return prefix == "whsec" and 24 <= len(b64decode(encoded, validate=True)) <= 64
    except ValueError:
        return False
