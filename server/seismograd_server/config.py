"""The server's settings: built-in values < a TOML file < environment < explicit arguments.

The environment's names are `SEISMOGRAD_SERVER_` and the key in capitals (`SEISMOGRAD_SERVER_DATA_DIR`), tables with two
underscores (`SEISMOGRAD_SERVER_NOTIFY__RESEND_SECONDS`), lists and tables as JSON. A key that does not exist is an
error wherever it stands: a typing error must not become a default.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict
from sqlalchemy import URL

from seismograd_server.errors import ConfigError
from seismograd_server.metrics import LayerChoice, parse_layers
from seismograd_server.notify.config import TABLES as NOTIFY_TABLES
from seismograd_server.notify.config import Notify
from seismograd_server.tables import NotNegative, Positive, Table, WebAddress

ENVIRONMENT_PREFIX = "SEISMOGRAD_SERVER_"
# What the server needs when idle: 125 MiB at the start on Linux, then as much again for pages, reports and what the
# allocator keeps. Of this, a server with memory for forty runs that all hurried took 155 MiB, and one with memory for
# four and forty at its door 105.
_IDLE_BYTES = 256 * 2**20
# Of `max_inflight_bytes`: on their way, waiting for room, and twice that much stored and waiting to be judged.
_WAYS = 4
# Room for a few small runs: with less, nobody could be served.
_LEAST_STANDING_BYTES = 2**20
# What Kubernetes puts into every container for a service named `seismograd-server`: not ours.
_KUBERNETES = re.compile(r"(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_(TCP|UDP)(_.*)?)?)\Z")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; port 0 = any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: object) -> Address:
    """Read `HOST:PORT`, `[IPv6]:PORT` or `:PORT` (every interface).

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(text, Address):
        return text
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.%]+)\]|([^:\s\[\]]*)):(\d{1,5})", str(text))
    if match is None or int(match[3]) > 65535:
        raise ValueError("write HOST:PORT, for example 127.0.0.1:7450")
    return Address(match[1] or match[2] or "0.0.0.0", int(match[3]))  # noqa: S104 (what an empty host means)


ListenAddress = Annotated[Address, NoDecode, BeforeValidator(parse_address)]  # not JSON in the environment


class Otlp(Table):
    """An OpenTelemetry collector to which the metrics of runs are pushed; none while the endpoint is empty."""

    endpoint: str = ""  # the whole address, as in http://collector:4318/v1/metrics
    interval_seconds: Positive = 15.0
    timeout_seconds: Positive = 10.0
    headers_file: Path | None = None  # a line for each, as in `authorization: Bearer ...`
    ca_file: str = ""


class Export(Table):
    """How much of the live runs `/metrics` shows, and to whom it is pushed."""

    runs: Annotated[int, Field(ge=0)] = 200
    ended_seconds: NotNegative = 900.0
    layers: Annotated[LayerChoice | None, BeforeValidator(parse_layers)] = None
    otlp: Otlp = Otlp()


class Capture(Table):
    """What an alert asks of the job's flight recorders; `CapturePolicy` says why these."""

    automatic: bool = True
    steps_before: Annotated[int, Field(ge=0, le=10_000)] = 64
    steps_after: Annotated[int, Field(ge=0, le=10_000)] = 64
    steps_an_hour: Annotated[int, Field(ge=0)] = 1024


class Kept(Table):
    """How much of one project is kept; what is left out is as for every project, 0 = without limit."""

    keep_days: NotNegative | None = None
    keep_bytes: Annotated[int, Field(ge=0)] | None = None
    detail_days: NotNegative | None = None


class Retention(Table):
    """How much of each project is kept, since runs ended and in bytes; 0 = everything, for ever."""

    keep_days: NotNegative = 0.0
    keep_bytes: Annotated[int, Field(ge=0)] = 0
    detail_days: NotNegative = 0.0  # every single step; then those around incidents, and summaries
    projects: dict[str, Kept] = Field(default_factory=dict)


class RulesTable(Table):
    """Where the rules are: a file that is read again when it changes; none = the shipped defaults."""

    file: Path | None = None


class Storage(Table):
    """How exact norms by layer are kept once a run has gone on; with fewer than eight bits, charts would show it."""

    mantissa_bits: Annotated[int, BeforeValidator(lambda v: 23 if v == "lossless" else v), Field(ge=8, le=23)] = 12
    lossless_projects: tuple[str, ...] = ()  # whose norms keep every bit


class Settings(BaseSettings):
    """Every setting of the server. Make it with `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    data_dir: Path = Path("seismograd-data")
    database_url: Annotated[str, Field(repr=False)] = ""  # empty = SQLite in data_dir; or postgresql://user@host/name
    grpc_listen: ListenAddress = Address("127.0.0.1", 7450)
    http_listen: ListenAddress = Address("127.0.0.1", 7451)
    insecure_i_know: bool = False  # listen beyond this machine although nothing is encrypted and nobody is asked
    allowed_hosts: tuple[str, ...] = ()  # names under which browsers may reach the web pages, beside localhost
    external_url: WebAddress = ""  # where people reach the web pages; empty = where they listen
    standby: bool = False  # wait until the server that has the database is gone, then take over
    durability: Literal["process", "power"] = "process"
    tick_milliseconds: Annotated[float, Field(ge=0, le=1000)] = 20.0
    close_wait_seconds: NotNegative = 5.0
    lost_after_seconds: Positive = 60.0
    checkpoint_seconds: NotNegative = 15.0
    max_memory_bytes: Annotated[int, Field(ge=2**20)] = 4 * 2**30  # of the process; see `standing_bytes`
    max_inflight_bytes: Annotated[int, Field(ge=2**20)] = 64 * 2**20
    max_frame_bytes: Annotated[int, Field(ge=2**16, le=2**30)] = 4 * 2**20
    notify: Notify = Notify()
    export: Export = Export()
    capture: Capture = Capture()
    retention: Retention = Retention()
    rules: RulesTable = RulesTable()
    storage: Storage = Storage()

    @property
    def standing_bytes(self) -> int:
        """What is left of the process's memory for live runs, their ranks and open streams."""
        return self.max_memory_bytes - _IDLE_BYTES - _WAYS * self.max_inflight_bytes

    @property
    def database(self) -> str:
        """The database's URL."""
        # Made, not written: a path may hold what means something in a URL.
        file = URL.create("sqlite", database=str(self.data_dir / "seismograd.db"))
        return self.database_url or file.render_as_string()


def load_settings(config: Path | None = None, **explicit: object) -> Settings:
    """Read the settings.

    Args:
        config: a TOML file; None = none.
        explicit: settings that outrank everything else, as from a command line; None counts as not given.

    Raises:
        ConfigError: a key that does not exist (with the nearest one that does), a value that cannot be used, a file
            that cannot be read, an address beyond this machine without `insecure_i_know`, or a memory limit that
            leaves nothing for runs.
    """
    given = {key: value for key, value in explicit.items() if value is not None}
    in_file = _read(config) if config is not None else {}
    _check_environment(os.environ)

    class _Layered(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (the library's signature)
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (likewise)
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=in_file)

    try:
        settings = _Layered(**cast("dict[str, Any]", given))
    except ValidationError as error:
        raise ConfigError(_explain(error, config, in_file, given)) from error
    except ValueError as error:  # a list or table in the environment that is not JSON
        raise ConfigError(f"environment: {error}") from error
    _check_exposure(settings)
    _check_memory(settings)
    return settings


def secret_of(value: SecretStr, file: Path | None, name: str) -> str:
    """The secret itself, from the setting or from its file.

    Raises:
        ConfigError: both are given, or the file cannot be read.
    """
    if file is None:
        return value.get_secret_value()
    if value.get_secret_value():
        raise ConfigError(f"{name} and {name}_file are both set: keep one")
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}_file {file} cannot be read: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"configuration {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration {path} is not TOML: {error}") from error


def _check_environment(environment: Mapping[str, str]) -> None:
    for name in environment:
        key = name.removeprefix(ENVIRONMENT_PREFIX)
        if key == name or _KUBERNETES.match(key):
            continue
        if key.split("__", maxsplit=1)[0].lower() not in Settings.model_fields:
            known = [ENVIRONMENT_PREFIX + field.upper() for field in Settings.model_fields]
            raise ConfigError(f"environment variable {name} is unknown{_nearest(name, known)}")


def _check_exposure(settings: Settings) -> None:
    for name, address in (("grpc_listen", settings.grpc_listen), ("http_listen", settings.http_listen)):
        if not address.is_loopback and not settings.insecure_i_know:
            raise ConfigError(
                f"{name} {address} can be reached from other machines, and this server neither encrypts nor asks who "
                "is there: listen on 127.0.0.1, or set insecure_i_know = true behind a firewall"
            )


def _check_memory(settings: Settings) -> None:
    if settings.standing_bytes < _LEAST_STANDING_BYTES:
        least = settings.max_memory_bytes - settings.standing_bytes + _LEAST_STANDING_BYTES
        raise ConfigError(
            f"max_memory_bytes {settings.max_memory_bytes} leaves no room for runs beside {_WAYS} x max_inflight_bytes "
            f"and {_IDLE_BYTES} of the server's own: make it {least} at least, or max_inflight_bytes smaller"
        )


def _explain(
    error: ValidationError, config: Path | None, in_file: Mapping[str, Any], given: Mapping[str, object]
) -> str:
    """One line for the first thing that is wrong: what, where, and what would be right."""
    first = error.errors()[0]
    path = first["loc"]
    name = ".".join(str(part) for part in path)
    top = str(path[0]) if path else ""
    if top in given:
        place = "argument"
    elif os.environ.keys() & {ENVIRONMENT_PREFIX + top.upper(), ENVIRONMENT_PREFIX + "__".join(map(str, path)).upper()}:
        place = "environment"
    else:
        place = f"configuration {config}" if top in in_file else "settings"
    if first["type"] == "extra_forbidden":
        return f"{place}: unknown key {name}{_nearest(str(path[-1]), _keys_beside(path))}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "tuple_type":
        message = "is a list: put what it holds between [ ]"
    shown = "" if "secret" in name or "token" in name or "url" in name else f", not {first['input']!r}"
    return f"{place}: {name}: {message[:1].lower()}{message[1:]}{shown}"


def _keys_beside(path: tuple[int | str, ...]) -> Iterable[str]:
    """The keys that may stand where the last part of the path stands."""
    tables: dict[str, type[BaseModel]] = {
        **NOTIFY_TABLES,
        "export": Export,
        "otlp": Otlp,
        "capture": Capture,
        "rules": RulesTable,
        "retention": Retention,
        "projects": Kept,
        "storage": Storage,
    }
    table: type[BaseModel] = Settings
    for part in path[:-1]:
        table = tables.get(str(part), table)
    return table.model_fields.keys()


def _nearest(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f": did you mean {found[0]}?" if found else f"; known are {', '.join(known)}"
