"""Options: what is refused and how that is said, where values come from, when a token may travel."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from seismograd.errors import OptionError
from seismograd.options import Options, debug_requested, default_spool_folders


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVER", "PROJECT", "RUN", "TOKEN", "TOKEN_FILE", "CA_FILE", "SPOOL_DIR", "MODE", "CAPTURE", "DEBUG"):
        monkeypatch.delenv(f"SEISMOGRAD_{name}", raising=False)


def test_the_defaults_are_usable_and_name_the_local_server() -> None:
    options = Options()
    assert (options.server, options.address.target, options.tls) == ("localhost:7450", "localhost:7450", False)
    assert (options.flush_steps, options.flush_bytes, options.flush_seconds) == (16, 262144, 0.5)
    assert options.queue_bytes == 32 * 1024 * 1024


@pytest.mark.parametrize(
    ("option", "value", "fix"),
    [
        ("server", "http://localhost:7451", "host:port"),
        ("server", "localhost:99999", "1 to 65535"),
        ("server", "two words", "host:port"),
        ("server", "a:b:c", "host:port"),
        ("server", "[::1", "[::1]:7450"),
        ("server", "unix:", "unix:/path"),
        ("server", 7450, "host:port"),
        ("project", "", "1 to 256 bytes"),
        ("project", "x" * 257, "1 to 256 bytes"),
        ("project", "ü" * 129, "1 to 256 bytes"),
        ("run", "line\nbreak", "without control characters"),
        ("run", "lone \ud800 surrogate", "UTF-8"),
        ("run", 7, "give a name"),
        ("run", ".", "give another name"),
        ("project", "..", "give another name"),
        ("run", "  ", "can be seen"),
        ("tags", ["a"], "mapping"),
        ("tags", {f"k{n}": "v" for n in range(33)}, "at most 32"),
        ("tags", {"no spaces": "v"}, "keys match"),
        ("tags", {"seed": 7}, "give a string"),
        ("tags", {"note": "x" * 257}, "at most 256"),
        ("tags", {"note": "two\nlines"}, "give one line"),
        ("spool_dir", "~nobody-of-this-name/spool", "give the whole path"),
        ("tied", ["embed.weight"], "not a mapping"),
        ("tied", {"words": "embed.weight"}, "not a list"),
        ("tied", {"words": ["embed.weight"], "more": ["embed.weight"]}, "stands in it twice"),
        ("tied", {"words": [7]}, "not a string"),
        ("mode", "maybe", "'on', 'offline', 'off'"),
        ("capture", "everything", "'layers', 'global'"),
        ("sample_every", -1, "10 is the default"),
        ("sample_every", True, "10 is the default"),
        ("sample_first", 1.5, "20 is the default"),
        ("flush_steps", 0, "16 is the default"),
        ("flush_bytes", 10, "1024 bytes or more"),
        ("queue_bytes", 1000, "1048576 bytes or more"),
        ("flush_seconds", float("nan"), "0.5 is the default"),
        ("flush_seconds", float("inf"), "0.5 is the default"),
        ("finish_timeout_seconds", 0, "2 is the default"),
        ("ca_file", "/nowhere/ca.pem", "certificate"),
        ("ca_file", 5, "path"),
        ("token", "two words", "copy it again"),
        ("token", "", "copy it again"),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name_with_the_fix(option: str, value: Any, fix: str) -> None:
    with pytest.raises(OptionError) as caught:
        Options(**{option: value})
    message = str(caught.value)
    assert message.startswith(option)
    assert fix in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "target", "loopback"),
    [
        ("node7", "node7:7450", False),
        ("node7:80", "node7:80", False),
        (" localhost:7450 ", "localhost:7450", True),
        ("127.0.0.1:1", "127.0.0.1:1", True),
        ("[::1]:9", "[::1]:9", True),
        ("[::1]", "[::1]:7450", True),
        ("::1", "[::1]:7450", True),
        ("10.0.0.8", "10.0.0.8:7450", False),
        ("grpc://node7:81/", "node7:81", False),
        ("unix:/run/seismograd.sock", "unix:/run/seismograd.sock", True),
    ],
)
def test_every_form_of_an_address_is_read(text: str, target: str, loopback: bool) -> None:
    address = Options(server=text).address
    assert (address.target, address.loopback, address.tls) == (target, loopback, False)


def test_the_scheme_grpcs_or_an_authority_asks_for_tls(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("certificate")
    assert Options(server="grpcs://node7").tls
    assert Options(server="node7", ca_file=str(authority)).tls  # type: ignore[arg-type]  # strings become paths
    assert not Options(server="node7").tls


def test_the_caller_goes_before_the_environment_and_that_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEISMOGRAD_SERVER", "fromenv:1")
    monkeypatch.setenv("SEISMOGRAD_PROJECT", "env-project")
    monkeypatch.setenv("SEISMOGRAD_CAPTURE", " GLOBAL ")
    monkeypatch.setenv("SEISMOGRAD_RUN", "")
    options = Options.from_environment(server="caller:2", project=None)
    assert (options.server, options.project, options.capture, options.run) == (
        "caller:2",
        "env-project",
        "global",
        None,
    )


def test_an_option_that_does_not_exist_is_refused_with_the_list_of_those_that_do() -> None:
    with pytest.raises(OptionError, match=r"^sever: there is no such option; the options are .*server"):
        Options.from_environment(sever="x")


def test_a_token_never_travels_unencrypted_to_another_machine(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"token: it would travel unencrypted to 'node7'; use grpcs://node7:7450"):
        Options(server="node7", token="sg_1_abc")
    with pytest.raises(OptionError, match="token: it would travel unencrypted"):
        Options(server="node7", token_file=tmp_path / "token")
    assert Options(server="grpcs://node7", token="sg_1_abc").read_token() == "sg_1_abc"
    assert Options(server="localhost", token="sg_1_abc").read_token() == "sg_1_abc"


def test_the_token_file_is_read_anew_each_time_so_that_tokens_can_rotate(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first\n")
    options = Options(token_file=path)
    assert options.read_token() == "first"
    path.write_text("second\n")
    assert options.read_token() == "second"
    path.write_text("")
    with pytest.raises(OptionError, match="is empty"):
        options.read_token()
    path.unlink()
    with pytest.raises(OptionError, match="cannot read"):
        options.read_token()


@pytest.mark.parametrize("kind", [str, Path])
def test_a_tilde_is_the_home_folder_in_every_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: type[Any]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ca.pem").write_text("certificate")
    options = Options(spool_dir=kind("~/spool"), token_file=kind("~/token"), ca_file=kind("~/ca.pem"))
    assert options.spool_parents == [tmp_path / "spool"]
    assert (options.token_file, options.ca_file) == (tmp_path / "token", tmp_path / "ca.pem")


def test_a_tilde_in_a_variable_is_one_too_because_no_shell_has_seen_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SEISMOGRAD_SPOOL_DIR", "~/spool")
    assert Options.from_environment().spool_dir == tmp_path / "spool"


def test_without_a_home_the_spool_is_in_the_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(_path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert [folder.parent.name for folder in default_spool_folders()] == [f"seismograd-{os.getuid()}"]


def test_a_token_is_not_shown_when_options_are_printed() -> None:
    assert "secret" not in repr(Options(token="secret"))


def test_options_cannot_be_changed_by_changing_what_was_given() -> None:
    tags = {"team": "nlp"}
    options = Options(tags=tags)
    tags["team"] = "vision"
    assert options.tags == {"team": "nlp"}


@pytest.mark.parametrize(("text", "wanted"), [("1", True), ("true", True), ("0", False), ("", False), ("no", False)])
def test_debug_output_is_asked_for_by_a_variable(monkeypatch: pytest.MonkeyPatch, text: str, wanted: bool) -> None:
    monkeypatch.setenv("SEISMOGRAD_DEBUG", text)
    assert debug_requested() is wanted
