"""The composition root: everything is built here, started in order, and stopped in the opposite one.

sockets -> database -> pipeline (takes up live runs) -> log -> gRPC -> HTTP -> notifications -> maintenance
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import platform
import socket
import time
from collections.abc import Callable
from importlib.metadata import version
from urllib.parse import quote

import structlog
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from seismograd_proto.v1 import QUERY_SERVICE, TELEMETRY_SERVICE
from seismograd_server.app.listening import GRACE_SECONDS, host_of, http_server, listening, reachable
from seismograd_server.app.shown import shown_settings
from seismograd_server.app.standing_by import take_over
from seismograd_server.app.wiring import (
    chores,
    delivery_policy,
    export_limits,
    log_settings,
    notification_targets,
    otlp_export,
    pipeline_settings,
)
from seismograd_server.config import Address, Settings
from seismograd_server.errors import SeismogradError, StartError, StorageError
from seismograd_server.ingest.log import Log
from seismograd_server.ingest.query_servicer import query_handlers
from seismograd_server.ingest.servicer import TelemetryServicer
from seismograd_server.instruments import Instruments
from seismograd_server.maintenance import Maintenance
from seismograd_server.metrics import new_registry, page
from seismograd_server.model import AskedDirective, RunKey, Transition
from seismograd_server.notify import Target, Worker, entries_for
from seismograd_server.pipeline import FailurePoint, Pipeline, Request
from seismograd_server.pipeline.people import People
from seismograd_server.report import ClipAdviser, PostmortemWriter, RunComparer
from seismograd_server.rules.file import RulesFile, RulesInForce
from seismograd_server.store.database import Database
from seismograd_server.store.outbox import OutboxEntry
from seismograd_server.web import WebSettings, create_app, create_standby_app

_log = structlog.get_logger(__name__)

_GRPC_OPTIONS = (
    # Two servers on one port would share the connections, and each would see half of a run.
    ("grpc.so_reuseport", 0),
    # A rank whose machine died is noticed, so that its run can be called lost.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients ping every 30 s; the default would answer that with GOAWAY.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.max_metadata_size", 8_192),
    # Left alone, gRPC widens each connection's window to megabytes: forty hurried clients had 200 MB on their way in,
    # where nobody counts them; with this much, which `capacity.py` counts, they were no slower. With half of it one
    # client, or a thousand, are a seventh slower or less, for client and server wait for each other more often.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 128 * 2**10),
)


class Server:
    """One server in this process. `start`, then `wait`, then `stop`; the addresses are known from `start` on."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
        failure_point: FailurePoint = lambda name: None,  # noqa: ARG005 (nothing fails)
    ) -> None:
        self.settings = settings
        self.grpc_address = settings.grpc_listen
        self.http_address = settings.http_listen
        self._clock = clock
        self._failure_point = failure_point
        self._stack = contextlib.AsyncExitStack()
        self._ready = False
        self._fatal: asyncio.Future[None] | None = None
        self.instruments = Instruments(new_registry())

    @property
    def database_name(self) -> str:
        """How people call the database: a path, or a name and a host."""
        return self._database.name

    @property
    def external_url(self) -> str:
        """Where people reach the web pages."""
        return self.settings.external_url.rstrip("/") or f"http://{reachable(self.http_address)}"

    @property
    def _hosts(self) -> tuple[str, ...]:
        """The names under which browsers may reach the web pages."""
        settings = self.settings
        return "localhost", self.http_address.host, *settings.allowed_hosts, *host_of(settings.external_url)

    async def start(self) -> None:
        """Start everything; a standby returns only when it has taken over.

        Raises:
            StartError: a port in use, a directory that is not writable, a database that another server has ...
            ConfigError: a notification target or rules that cannot be used.
        """
        self._fatal = asyncio.get_running_loop().create_future()
        try:
            await self._start()
        except StorageError as error:
            await self._stack.aclose()
            raise StartError(str(error)) from error
        except BaseException:
            await self._stack.aclose()
            raise
        self._ready = True

    async def wait(self) -> None:
        """Return when `stop` is called.

        Raises:
            SeismogradError: the server cannot go on (its database has been taken over, the disk has failed).
        """
        assert self._fatal is not None  # noqa: S101 (`start` comes first)
        await asyncio.shield(self._fatal)

    async def stop(self) -> None:
        """Stop taking records, make durable what is here, store the detectors' state, and close everything."""
        self._ready = False
        await self._stack.aclose()
        if self._fatal is not None and not self._fatal.done():
            self._fatal.set_result(None)

    def metrics_page(self, accept: str) -> tuple[bytes, str]:
        """The page for Prometheus and its content type."""
        with contextlib.suppress(OSError, StorageError):
            self.instruments.storage_size_bytes.set(self._database.size_bytes())
            free = self._database.free_bytes()
            self.instruments.storage_free_bytes.set(math.nan if free is None else free)
        limits = export_limits(self.settings)
        return page(accept, self._pipeline.snapshot(), self.instruments, self._clock(), limits)

    async def _start(self) -> None:
        settings = self.settings
        file = settings.rules.file
        self._rules = RulesFile(file, self.instruments) if file is not None else None
        targets = notification_targets(settings)
        http_socket = self._stack.enter_context(listening("http_listen", settings.http_listen))
        self.http_address = Address(settings.http_listen.host, http_socket.getsockname()[1])
        self._database = self._stack.enter_context(await self._open_database(http_socket))
        self._database.watch(self._failing_from_threads())
        self._database.damage.listen(lambda row: self.instruments.storage_damaged.labels(what=row.what).inc())
        self.instruments.build_info.labels(
            version=version("seismograd"), storage=self._database.kind, python=platform.python_version()
        ).set(1)
        worker = self._worker(targets)

        def entries(transition: Transition, now: float) -> list[OutboxEntry]:
            return entries_for(transition, targets, now, self.external_url, settings.notify.runbooks_url)

        self._pipeline = Pipeline(
            self._database, self.instruments, pipeline_settings(settings, self._rules), entries, self._failure_point
        )
        self._people = People(self._database, entries, self._clock)
        await asyncio.to_thread(self._pipeline.start, self._clock())
        log = await self._start_grpc(worker)
        await self._start_http(http_socket, log)
        if (otlp := otlp_export(settings, self._pipeline.snapshot, self._clock, self.instruments)) is not None:
            otlp.start()
            self._stack.push_async_callback(asyncio.to_thread, otlp.stop)
        task = asyncio.create_task(worker.run(), name="notify")
        task.add_done_callback(self._ended)
        self._stack.push_async_callback(worker.stop)
        self._start_maintenance(log)

    async def _open_database(self, http_socket: socket.socket) -> Database:
        """The database, as soon as nobody else has it if this is a standby, at once or not at all otherwise."""
        settings = self.settings

        def opened() -> Database:
            return Database.open(
                settings.database,
                owner="seismograd serve",
                durability=settings.durability,
                standby=settings.standby,
            )

        if settings.standby:
            # On one machine, the active server may have the port until it dies.
            return await take_over(opened, create_standby_app(self._hosts, self._clock), http_socket)
        with listening("grpc_listen", settings.grpc_listen):
            pass  # gRPC itself says only that it failed
        return opened()

    def _start_maintenance(self, log: Log) -> None:
        found = chores(self._database, self.settings, self.instruments, self._failure_point)
        found = [*([self._rules] if self._rules is not None else []), *found]
        maintenance = Maintenance(
            found,
            self.instruments,
            self._clock,
            load=lambda: log.load.share,
            on_fatal=self._failing_from_threads(),
        )
        maintenance.start()
        self._stack.push_async_callback(asyncio.to_thread, maintenance.stop)

    async def _start_grpc(self, worker: Worker) -> Log:
        settings, how = self.settings, log_settings(self.settings)
        log = Log(
            self._pipeline,
            how,
            self.instruments,
            clock=self._clock,
            on_fatal=self._fail,
            on_commit=worker.wake,
        )
        log.start()
        self._stack.push_async_callback(log.stop)
        largest = ("grpc.max_receive_message_length", how.limits.max_message_bytes)
        server = aio.server(options=(*_GRPC_OPTIONS, largest))
        servicer = TelemetryServicer(
            log, self._pipeline, self.instruments, how.limits, run_url=self._run_url, clock=self._clock
        )
        checks = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        server.add_generic_rpc_handlers((servicer.handlers(), query_handlers(self._database)))
        try:
            port = server.add_insecure_port(str(settings.grpc_listen))
        except RuntimeError as error:
            raise StartError(f"grpc_listen {settings.grpc_listen}: cannot listen there: {error}") from error
        self.grpc_address = Address(settings.grpc_listen.host, port)
        await server.start()
        self._stack.push_async_callback(server.stop, GRACE_SECONDS)
        self._stack.callback(log.hang_up)
        self._stack.push_async_callback(checks.enter_graceful_shutdown)
        for name in ("", TELEMETRY_SERVICE, QUERY_SERVICE):
            await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
        return log

    async def _start_http(self, listening: socket.socket, log: Log) -> None:
        async def ask(key: RunKey, request: Request) -> AskedDirective:
            return await log.call(lambda now: self._pipeline.asking.ask(key, request, now))

        app = create_app(
            database=self._database,
            snapshot=self._pipeline.snapshot,
            metrics_page=self.metrics_page,
            ready=lambda: self._ready and log.takes_records,
            ask=ask,
            people=self._people,
            postmortem=PostmortemWriter(self._database, self.external_url, self._pipeline.snapshot),
            clip_advice=ClipAdviser(self._database),
            compare=RunComparer(self._database),
            settings=WebSettings(
                allowed_hosts=self._hosts,
                grpc_address=reachable(self.grpc_address),
                external_url=self.settings.external_url.rstrip("/"),
                tables=shown_settings(self.settings),
            ),
            rules_in_force=RulesInForce if self._rules is None else self._rules.in_force,
            clock=self._clock,
        )
        server = http_server(app)
        task = asyncio.create_task(server.serve(sockets=[listening]), name="http")
        task.add_done_callback(self._ended)

        async def stop() -> None:
            server.should_exit = True
            await asyncio.wait([task])

        self._stack.push_async_callback(stop)

    def _worker(self, targets: list[Target]) -> Worker:
        policy = delivery_policy(self.settings)
        return Worker(
            self._database,
            targets,
            self.instruments,
            self._clock,
            policy=policy,
            external_url=self.external_url,
            runbooks_url=self.settings.notify.runbooks_url,
        )

    def _run_url(self, project: str, run: str) -> str:
        return f"{self.external_url}/runs/{quote(project, safe='')}/{quote(run, safe='')}"

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A part has ended by itself: fine when we are stopping, fatal otherwise."""
        failure = None if task.cancelled() else task.exception()
        if isinstance(failure, SeismogradError):
            self._fail(failure)
        elif failure is not None:
            self._fail(SeismogradError(f"the {task.get_name()} part died: {type(failure).__name__}: {failure}"))

    def _failing_from_threads(self) -> Callable[[SeismogradError], None]:
        """What a thread of ours calls when the server cannot go on."""
        loop = asyncio.get_running_loop()

        def fail(error: SeismogradError) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: we are stopping anyway
                loop.call_soon_threadsafe(self._fail, error)

        return fail

    def _fail(self, error: SeismogradError) -> None:
        self._ready = False
        if self._fatal is not None and not self._fatal.done():
            self._fatal.set_exception(error)
