"""Every option of the client, frozen and validated; the only reader of the environment.

An option comes from the caller if given, else from its `SEISMOGRAD_*` variable, else from the default here. An option
that cannot work raises OptionError, whose one line names the option, the value and the fix.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from seismograd.address import ServerAddress
from seismograd.errors import OptionError
from seismograd.launch import LaunchEnvironment
from seismograd.names import require_groups, require_path_name, require_tags, require_text

__all__ = ["LaunchEnvironment", "OptionError", "Options", "debug_requested", "launch_environment"]

Mode = Literal["on", "offline", "off"]
Capture = Literal["layers", "global"]

KIBIBYTE = 1024
MEBIBYTE = 1024 * KIBIBYTE

# Option -> variable. The rest is for code only: tuning by environment is what nobody can reproduce later.
_VARIABLES = {
    "server": "SEISMOGRAD_SERVER",
    "project": "SEISMOGRAD_PROJECT",
    "run": "SEISMOGRAD_RUN",
    "token": "SEISMOGRAD_TOKEN",
    "token_file": "SEISMOGRAD_TOKEN_FILE",
    "ca_file": "SEISMOGRAD_CA_FILE",
    "spool_dir": "SEISMOGRAD_SPOOL_DIR",
    "mode": "SEISMOGRAD_MODE",
    "capture": "SEISMOGRAD_CAPTURE",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user can choose. Raises OptionError for a value that cannot work."""

    server: str = "localhost:7450"  # "host:port", "grpcs://host:port" for TLS, "unix:/path"
    project: str = "default"
    run: str | None = None  # None = the monitor names the run after its launch
    tags: Mapping[str, str] = field(default_factory=dict)
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None  # read again at every connection, so that tokens can rotate
    ca_file: Path | None = None  # PEM; its presence asks for TLS
    spool_dir: Path | None = None  # None = the user's state folder, else the temporary folder
    mode: Mode = "on"
    capture: Capture = "layers"

    # Parameters that are one although several ranks hold them, under names of their own (the embedding of a pipeline's
    # first stage that is the head of its last): a name for each -> the names that it has.
    tied: Mapping[str, Sequence[str]] = field(default_factory=dict)

    # Sampled extras: weight and update norms, largest elements, spectral gains, local norms before the all-reduce.
    sample_every: int = 10  # steps; 0 = never
    sample_budget: float = 0.01  # the share of the step time that they may take on average; beyond it they are thinned
    sample_first: int = 20  # the first steps are all sampled: young runs explode most

    # When a frame is sent: whichever comes first.
    flush_steps: int = 16
    flush_bytes: int = 256 * KIBIBYTE
    flush_seconds: float = 0.5

    queue_bytes: int = 32 * MEBIBYTE  # memory for what is not durable yet
    spool_bytes: int = 256 * MEBIBYTE  # disk for what is not durable and no longer in the ring
    # The ring: the last steps of each optimizer, whole, for the flight recorder and for a process that is killed.
    ring_steps: int = 256  # at least so many
    ring_bytes: int = 64 * MEBIBYTE  # but no more than this for an optimizer
    finish_timeout_seconds: float = 2.0  # the longest that the end of the job may wait for the server

    def __post_init__(self) -> None:
        ServerAddress.parse(require_text("server", self.server, 'write "host:port", for example "localhost:7450"'))
        require_path_name("project", self.project)
        if self.run is not None:
            require_path_name("run", self.run)
        object.__setattr__(self, "tags", require_tags(self.tags))
        object.__setattr__(self, "tied", require_groups("tied", self.tied))
        _require_choice("mode", self.mode, get_args(Mode))
        _require_choice("capture", self.capture, get_args(Capture))
        for name in ("token_file", "ca_file", "spool_dir"):
            _make_path(self, name)
        self._require_numbers()
        self._require_credentials()

    @classmethod
    def from_environment(cls, **explicit: Any) -> Options:
        """Options from the caller, then the environment, then the defaults.

        An explicit value of None means "not given". Raises OptionError, also for an option that does not exist.
        """
        known = {option.name for option in fields(cls)}
        if unknown := sorted(explicit.keys() - known):
            raise OptionError(f"{unknown[0]}: there is no such option; the options are {', '.join(sorted(known))}")
        values: dict[str, Any] = {name: value for name, value in explicit.items() if value is not None}
        for name, variable in _VARIABLES.items():
            text = os.environ.get(variable, "").strip()
            if name not in values and text:
                values[name] = text.lower() if name in ("mode", "capture") else text
        return cls(**values)

    @property
    def address(self) -> ServerAddress:
        """The server's address, parsed."""
        return ServerAddress.parse(self.server)

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.address.tls or self.ca_file is not None

    @property
    def spool_parents(self) -> list[Path]:
        """Where this process may make its folder of the spool; the first that works is used."""
        if self.spool_dir is not None:
            return [self.spool_dir.absolute()]
        return default_spool_folders()

    def read_token(self) -> str | None:
        """The token to send now, or None; reads `token_file` again each time. Raises OptionError when it cannot."""
        if self.token is not None:
            return self.token
        if self.token_file is None:
            return None
        try:
            token = self.token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"token_file: cannot read {str(self.token_file)!r}: {error}") from error
        if not token:
            raise OptionError(f"token_file: {str(self.token_file)!r} is empty; write the token into it")
        return token

    def launch_environment(self) -> LaunchEnvironment:
        """What the launcher said about this process."""
        return launch_environment()

    def _require_numbers(self) -> None:
        _require_integer("sample_every", self.sample_every, 0, "use 0 to never sample, 10 is the default")
        _require_integer("sample_first", self.sample_first, 0, "use 0 or more steps, 20 is the default")
        _require_share("sample_budget", self.sample_budget, "use a share of the step time such as 0.01, the default")
        _require_integer("flush_steps", self.flush_steps, 1, "use 1 or more steps, 16 is the default")
        _require_integer("flush_bytes", self.flush_bytes, KIBIBYTE, "use 1024 bytes or more, 262144 is the default")
        _require_integer("queue_bytes", self.queue_bytes, MEBIBYTE, "use 1048576 bytes or more, 32 MiB is the default")
        _require_integer("ring_steps", self.ring_steps, 1, "use 1 or more steps, 256 is the default")
        _require_integer("ring_bytes", self.ring_bytes, MEBIBYTE, "use 1048576 bytes or more, 64 MiB is the default")
        _require_integer("spool_bytes", self.spool_bytes, MEBIBYTE, "use 1048576 bytes or more, 256 MiB is the default")
        _require_seconds("flush_seconds", self.flush_seconds, "use a positive number of seconds, 0.5 is the default")
        _require_seconds(
            "finish_timeout_seconds", self.finish_timeout_seconds, "use a positive number of seconds, 2 is the default"
        )

    def _require_credentials(self) -> None:
        if self.ca_file is not None and not self.ca_file.is_file():
            raise OptionError(f"ca_file: {str(self.ca_file)!r} is not a file; give the authority's certificate (PEM)")
        if self.token is not None:
            token = require_text("token", self.token, "give the token as a string", shown=False)
            if not token.isascii() or not token.isprintable() or not token or " " in token:
                raise OptionError("token: it has characters that no token has; copy it again, without spaces")
        if (self.token is not None or self.token_file is not None) and not (self.tls or self.address.loopback):
            raise OptionError(
                f"token: it would travel unencrypted to {self.address.host!r};"
                f" use grpcs://{self.address.target} or give ca_file (SEISMOGRAD_CA_FILE)"
            )


def launch_environment() -> LaunchEnvironment:
    """What torchelastic, Slurm or Kubernetes said about this process through its environment."""
    return LaunchEnvironment.from_variables(os.environ)


def default_spool_folders() -> list[Path]:
    """Where spools are when nobody says otherwise: the user's state folder, else a private temporary one."""
    state = os.environ.get("XDG_STATE_HOME", "")
    home = Path(state) if Path(state).is_absolute() else _at_home(Path("~/.local/state"))
    folders = [] if home is None or not home.is_absolute() else [home / "seismograd" / "spool"]
    return [*folders, Path(tempfile.gettempdir()) / f"seismograd-{os.getuid()}" / "spool"]


def environment_names_server() -> bool:
    """Whether SEISMOGRAD_SERVER says where the server is."""
    return bool(os.environ.get(_VARIABLES["server"], "").strip())


def watched_environment(**explicit: str | None) -> dict[str, str]:
    """Variables of a program that is to be watched without a change (`seismograd.integrations.autowatch`).

    `explicit` are options that have a variable; None = not given. Raises OptionError for options that cannot work.
    """
    Options.from_environment(**explicit)
    given = {_VARIABLES[name]: value for name, value in explicit.items() if value is not None}
    folders = [str(Path(__file__).parent / "integrations" / "injected"), os.environ.get("PYTHONPATH", "")]
    # An empty part would mean the current folder.
    return {**os.environ, **given, "PYTHONPATH": os.pathsep.join(filter(None, folders))}


def debug_requested() -> bool:
    """Whether the program should show tracebacks (SEISMOGRAD_DEBUG=1)."""
    return os.environ.get("SEISMOGRAD_DEBUG", "").strip().lower() not in ("", "0", "false", "no")


def _require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        quoted = ", ".join(repr(choice) for choice in choices)
        raise OptionError(f"{name}: {value!r} is not one of {quoted}; choose one of them")


def _make_path(options: Options, name: str) -> None:
    value = getattr(options, name)
    if value is None:
        return
    if not isinstance(value, (str, Path)) or not value:
        raise OptionError(f"{name}: {value!r} is not a path; give a path as a string")
    path = _at_home(Path(value))
    if path is None:
        raise OptionError(f"{name}: {str(value)!r} names a home folder that is not known here; give the whole path")
    object.__setattr__(options, name, path)


def _at_home(path: Path) -> Path | None:
    """A path whose `~` is a home folder, as a shell has it, which sees no variable's; None = nobody's home is known."""
    try:
        return path.expanduser()
    except RuntimeError:
        return None


def _require_integer(name: str, value: object, least: int, fix: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise OptionError(f"{name}: {value!r} cannot be used; {fix}")


def _require_share(name: str, value: object, fix: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value <= 1.0:
        raise OptionError(f"{name}: {value!r} cannot be used; {fix}")


def _require_seconds(name: str, value: object, fix: str) -> None:
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not numeric or not math.isfinite(value) or value <= 0:  # type: ignore[arg-type,operator]  # numeric is checked first
        raise OptionError(f"{name}: {value!r} cannot be used; {fix}")
