"""What is particular to PostgreSQL: advisory locks, where SQLite locks files, and notifications between processes."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from threading import Event, Thread
from typing import Any, cast

import psycopg
from psycopg.errors import LockNotAvailable
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, func, select
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from service.sql.sqlite import BUSY_S, CONNECTIONS

IDLE_S = 30
"""How long a writer may stand still, seconds: then the server ends its transaction, and the others go on."""

KEPT_CONNECTIONS = 8
"""Connections that stay open: each is a process of the server, which allows 100 by default."""

LISTEN_S = 0.2
"""How long ending may take where nothing is heard, seconds."""

_CHANNEL = "withstand"

_WRITING, _DISPATCHING = 0x77697400, 0x77697401
"""Keys of advisory locks, which hold for one database."""

_DEFAULTS = {
    "application_name": "withstand",
    "connect_timeout": "2",  # seconds, as the others but for the last one
    "keepalives_idle": "5",
    "keepalives_interval": "1",
    "keepalives_count": "3",
    "tcp_user_timeout": "5000",  # milliseconds
}
"""Of parameters that the URL may set: a host that is lost without a word is noticed after some seconds."""


class AdvisoryLock:
    """Held by a connection, until that is closed or lost."""

    def __init__(self, unpooled: Engine) -> None:
        self._unpooled = unpooled
        self._connection: Connection | None = None

    def take(self) -> bool:
        """Take it, if nobody else has it; returns whether it is held."""
        try:
            self._connection = self._connection or self._unpooled.connect()
            return bool(self._connection.scalar(select(func.pg_try_advisory_lock(_DISPATCHING))))
        except SQLAlchemyError:
            self.close()
            raise

    def release(self) -> None:
        """Let others have it."""
        self.close()

    def close(self) -> None:
        """Release it for good."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Postgresql:
    """A database of a PostgreSQL server.

    Args:
        url: where it is, and as whom.
    """

    defects = (IntegrityError, DataError)
    """Errors that are no fault of the database."""

    def __init__(self, url: URL) -> None:
        url = url.set(drivername="postgresql+psycopg", query={**_DEFAULTS, **url.query})
        self.name = url.set(drivername="postgresql", query={}).render_as_string(hide_password=True)
        sizes = {"pool_size": KEPT_CONNECTIONS, "max_overflow": CONNECTIONS - KEPT_CONNECTIONS}
        self.engine = create_engine(url, pool_pre_ping=True, **sizes)
        self._unpooled = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        self.engine.dialect.use_insertmanyvalues_wo_returning = True  # else each row is a statement, with its triggers

    def turn(self) -> AbstractContextManager[None]:
        """Nothing: the server lets writers write in the order in which they came."""
        return nullcontext()

    def begin_reading(self, db: Connection) -> None:
        """Let all queries see one state."""
        db.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def begin_writing(self, db: Connection, *, notify: bool) -> None:
        """Wait for other writers: writing one after the other, as on SQLite, nobody reads what another one is changing."""
        begin = [
            func.set_config("lock_timeout", str(1000 * BUSY_S), True),
            func.set_config("idle_in_transaction_session_timeout", str(1000 * IDLE_S), True),
            func.pg_advisory_xact_lock(_WRITING),
            *([func.pg_notify(_CHANNEL, "")] if notify else []),
        ]
        db.execute(select(*begin))

    def give_back_space(self, db: Connection) -> bool:
        """Nothing: the server's autovacuum does it."""
        return False

    def lock(self) -> AdvisoryLock:
        """Give the lock of the dispatcher, not yet taken."""
        return AdvisoryLock(self._unpooled)

    @contextmanager
    def listening(self, heard: Callable[[], None]) -> Generator[None]:
        """Call something whenever a process that does not dispatch has changed something."""
        ended = Event()
        thread = Thread(target=self._listen, args=(heard, ended), name="listener", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(LISTEN_S * 5)

    def is_busy(self, error: BaseException | None) -> bool:
        """Whether an error of the driver says that another writer took too long."""
        return isinstance(error, LockNotAvailable)

    def replaced(self) -> bool:
        """Whether it is another database than the one that was opened."""
        return False

    def _listen(self, heard: Callable[[], None], ended: Event) -> None:
        while not ended.wait(LISTEN_S):
            with suppress(SQLAlchemyError, psycopg.Error), self._unpooled.connect() as db:
                db.exec_driver_sql(f"LISTEN {_CHANNEL}")
                heard()  # of what was missed
                driver = cast(psycopg.Connection[Any], db.connection.driver_connection)
                while not ended.is_set():
                    for _ in driver.notifies(timeout=LISTEN_S, stop_after=1):
                        heard()
