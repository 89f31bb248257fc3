"""What must be right before the service starts, so that what is wrong takes one line to say."""

import socket
from contextlib import closing
from importlib.util import find_spec

from common.folders import FolderError, require_writable
from service.accounts.audit import auditing
from service.accounts.keys import list_keys
from service.cluster.content import ContentError, ContentStore
from service.jobs.store import Store
from service.settings import PREFIX, Settings, is_loopback
from service.sql.database import StoreError


class StartError(RuntimeError):
    """The service cannot start; the message says why and what to do."""


def require_startable(settings: Settings) -> None:
    """See that the folder can be written, the database opened and the ports bound, and that nothing is missing.

    Raises:
        StartError: one of them cannot.
        ValueError: it would listen beyond this machine, and there is no API key.
    """
    try:
        require_writable(settings.data_dir, "the service's data")
        with closing(Store.at(settings.database)) as store:
            _require_keys(settings, store)
    except (FolderError, StoreError) as error:
        from_url = settings.database_url and isinstance(error, StoreError)
        setting = f"{PREFIX}DATABASE_URL" if from_url else f"--data-dir or {PREFIX}DATA_DIR"
        raise StartError(f"{error} ({setting})") from error
    _require_audit(settings)
    _require_cluster(settings)
    require_free(settings.host, settings.port, f"--port or {PREFIX}PORT")
    if settings.grpc_port is not None:
        if not all(map(find_spec, ("grpc", "tritonclient"))):
            raise StartError(f"{PREFIX}GRPC_PORT needs grpcio and tritonclient: uv pip install '.[grpc]'")
        require_free(settings.host, settings.grpc_port, f"{PREFIX}GRPC_PORT")


def _require_keys(settings: Settings, store: Store) -> None:
    if not (is_loopback(settings.host) or settings.api_keys or list_keys(store.database)):
        raise ValueError(
            f"listening on {settings.host} needs API keys: make one with `withstand keys create NAME --scope admin`, or set "
            f"{PREFIX}API_KEYS to a JSON list such as '[\"...\"]', or listen on 127.0.0.1"
        )


def _require_audit(settings: Settings) -> None:
    try:
        with auditing(settings.audit_log, settings.log_format):
            return
    except OSError as error:
        raise StartError(f"{error.strerror}: {settings.audit_log} ({PREFIX}AUDIT_LOG)") from error


def _require_cluster(settings: Settings) -> None:
    if settings.ray_address is None:
        return
    if find_spec("ray") is None:
        raise StartError(f"{PREFIX}RAY_ADDRESS needs Ray: uv pip install '.[ray]'")
    if settings.store_url:
        try:
            ContentStore(settings.store_url).open()
        except ContentError as error:
            raise StartError(f"{error} ({PREFIX}STORE_URL)") from error


def require_free(host: str, port: int, setting: str) -> None:
    """See that nothing listens at an address; raises StartError, which names the setting to change."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # which goes on with the address
        raise StartError(
            f"cannot listen on {host}, port {port}: {reason}; end what listens there, or choose another port "
            f"with {setting} (0 takes a free one)"
        ) from error
