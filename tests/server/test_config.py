"""The settings: layers that outrank one another, and one line for whatever is wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from seismograd_server.app.wiring import retention_policy
from seismograd_server.config import Address, load_settings, parse_address, secret_of
from seismograd_server.errors import ConfigError
from seismograd_server.maintenance.retention import Keep


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SEISMOGRAD_SERVER"):
            monkeypatch.delenv(name)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "seismograd.toml"


def test_without_anything_the_server_is_on_loopback_with_sqlite_in_the_current_directory() -> None:
    settings = load_settings()
    assert str(settings.grpc_listen) == "127.0.0.1:7450"
    assert str(settings.http_listen) == "127.0.0.1:7451"
    assert settings.database == "sqlite:///seismograd-data/seismograd.db"


@pytest.mark.parametrize("name", ["runs?", "a%41", "b#1", "two words", "é"])
def test_the_database_is_in_the_directory_that_was_named_whatever_its_name(name: str, tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path / name)

    assert make_url(settings.database).database == str(tmp_path / name / "seismograd.db")


def test_a_file_is_outranked_by_the_environment_and_that_by_arguments(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text('data_dir = "from-file"\ntick_milliseconds = 5\nclose_wait_seconds = 1\n')
    monkeypatch.setenv("SEISMOGRAD_SERVER_TICK_MILLISECONDS", "7")
    monkeypatch.setenv("SEISMOGRAD_SERVER_DATA_DIR", "from-environment")
    settings = load_settings(config, data_dir=Path("from-argument"), grpc_listen=None)
    assert settings.data_dir == Path("from-argument")
    assert settings.tick_milliseconds == 7
    assert settings.close_wait_seconds == 1


def test_the_rules_are_in_a_file_of_their_own(config: Path) -> None:
    assert load_settings().rules.file is None
    config.write_text('[rules]\nfile = "rules.toml"\n')
    assert load_settings(config).rules.file == Path("rules.toml")
    config.write_text('[rules]\nfiel = "rules.toml"\n')
    with pytest.raises(ConfigError, match=r"unknown key rules\.fiel: did you mean file\?"):
        load_settings(config)


def test_tables_are_read_from_file_and_environment(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text(
        """
        [notify]
        alertmanagers = ["http://localhost:9093", { url = "http://other:9093", labels = { team = "speech" } }]
        [[notify.webhooks]]
        url = "https://hooks.example.org/x"
        secret = "hush"
        """
    )
    monkeypatch.setenv("SEISMOGRAD_SERVER_NOTIFY__RESEND_SECONDS", "12")
    notify = load_settings(config).notify
    assert [each.url for each in notify.alertmanagers] == ["http://localhost:9093", "http://other:9093"]
    assert notify.alertmanagers[1].labels == {"team": "speech"}
    assert notify.webhooks[0].secret.get_secret_value() == "hush"
    assert "hush" not in repr(notify)
    assert notify.resend_seconds == 12


def test_the_clients_variables_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEISMOGRAD_SERVER", "somewhere:7450")
    monkeypatch.setenv("SEISMOGRAD_PROJECT", "mt")
    assert str(load_settings().grpc_listen) == "127.0.0.1:7450"


def test_what_kubernetes_says_of_a_service_of_our_name_is_not_ours_either(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_GRPC", "PORT", "PORT_7450_TCP", "PORT_7450_TCP_ADDR"):
        monkeypatch.setenv(f"SEISMOGRAD_SERVER_{name}", "10.0.0.1")
    assert str(load_settings().grpc_listen) == "127.0.0.1:7450"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('data_dri = "x"', ("data_dri", "data_dir")),
        ("[notify]\nresend_second = 3", ("notify.resend_second", "resend_seconds")),
        ('[[notify.webhooks]]\nurl = "https://x"\nsecrt = "y"', ("webhooks.0.secrt", "secret")),
        ("[notify]\nresend_seconds = -1", ("notify.resend_seconds", "greater than 0")),
        ("[notify]\nhold_resolved_seconds = 120", ("notify", "below 4 times resend_seconds")),
        ("[notify]\nhold_resolved_secs = 1", ("notify.hold_resolved_secs", "hold_resolved_seconds")),
        ('[[notify.webhooks]]\nurl = "https://x"\nproject = ["y"]', ("webhooks.0.project", "projects")),
        ('[[notify.grafana]]\nurl = "https://x"\ntokn = "y"', ("notify.grafana.0.tokn", "token")),
        ('[[notify.chats]]\nurls = "slack://x"', ("notify.chats.0.urls", "url")),
        ('[notify.templates]\ntitel = "x"', ("notify.templates.titel", "title")),
        ('external_url = "monitor"', ("external_url", "https://seismograd.example.com")),
        ('[notify]\nrunbooks_url = "/runbooks"', ("notify.runbooks_url", "https://seismograd.example.com")),
        ('[notify]\nalertmanagers = "http://x:9093"', ("notify.alertmanagers", "a list", "[ ]")),
        ('[[notify.chats]]\nprojects = "mt"', ("notify.chats.0.projects", "a list", "[ ]")),
        (
            '[[notify.alertmanagers]]\nurl = "http://x"\nlabels = { severity = "page" }',
            ("notify.alertmanagers.0.labels", "severity", "call it otherwise"),
        ),
        ('durability = "maybe"', ("durability", "process")),
        ('grpc_listen = "7450"', ("grpc_listen", "HOST:PORT")),
        ("max_inflight_bytes = 3", ("max_inflight_bytes", "greater")),
        ("data_dir = ", ("TOML",)),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line_with_the_key_the_fix_and_the_file(
    config: Path, text: str, words: tuple[str, ...]
) -> None:
    config.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(config)
    message = str(caught.value)
    assert "\n" not in message
    assert str(config) in message
    for word in words:
        assert word in message


def test_a_secret_is_never_repeated_in_an_error(config: Path) -> None:
    config.write_text('[[notify.webhooks]]\nurl = 3\nsecret = ["hush"]')
    with pytest.raises(ConfigError) as caught:
        load_settings(config)
    assert "hush" not in str(caught.value)


def test_an_unknown_variable_is_named_with_the_nearest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEISMOGRAD_SERVER_DATADIR", "x")
    with pytest.raises(ConfigError, match=r"SEISMOGRAD_SERVER_DATADIR.*SEISMOGRAD_SERVER_DATA_DIR"):
        load_settings()


def test_a_bad_value_says_whether_it_came_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEISMOGRAD_SERVER_NOTIFY__RESEND_SECONDS", "soon")
    with pytest.raises(ConfigError, match=r"environment: notify\.resend_seconds.*'soon'"):
        load_settings()


def test_a_list_in_the_environment_that_is_not_json_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEISMOGRAD_SERVER_ALLOWED_HOSTS", "a,b")
    with pytest.raises(ConfigError, match="allowed_hosts"):
        load_settings()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load_settings(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("name", ["grpc_listen", "http_listen"])
@pytest.mark.parametrize("address", ["0.0.0.0:7450", ":7450", "[::]:7450", "192.168.1.7:7450", "node-1:7450"])
def test_an_address_beyond_this_machine_needs_a_word_of_consent(name: str, address: str) -> None:
    given: dict[str, Any] = {name: address}
    with pytest.raises(ConfigError, match=f"{name}.*insecure_i_know"):
        load_settings(None, **given)
    assert getattr(load_settings(None, insecure_i_know=True, **given), name) == parse_address(address)


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("127.0.0.1:7450", Address("127.0.0.1", 7450), True),
        ("localhost:0", Address("localhost", 0), True),
        ("[::1]:80", Address("::1", 80), True),
        (":80", Address("0.0.0.0", 80), False),
    ],
)
def test_addresses_are_read_and_written(text: str, address: Address, loopback: bool) -> None:
    assert parse_address(text) == address
    assert address.is_loopback is loopback
    assert parse_address(str(address)) == address


@pytest.mark.parametrize("text", ["", "host", "host:", "host:99999", "a:b:1", "::1:80", "host:1 "])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        parse_address(text)


def test_a_secret_may_stand_in_a_file_of_its_own(tmp_path: Path, config: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hush\n")
    config.write_text(f'[[notify.webhooks]]\nurl = "https://x"\nsecret_file = "{secret}"')
    (hook,) = load_settings(config).notify.webhooks
    assert secret_of(hook.secret, hook.secret_file, "secret") == "hush"
    secret.unlink()
    with pytest.raises(ConfigError, match="secret_file"):
        secret_of(hook.secret, hook.secret_file, "secret")


def test_what_is_kept_may_differ_by_project_and_a_typing_error_in_it_is_named(config: Path) -> None:
    config.write_text(
        '[retention]\nkeep_days = 90\n[retention.projects."speech"]\nkeep_bytes = 5_000_000\nkeep_days = 0\n'
    )
    policy = retention_policy(load_settings(config))
    assert policy.of("speech") == Keep(days=None, size_bytes=5_000_000)
    assert policy.of("mt") == Keep(days=90.0)
    assert retention_policy(load_settings()).limits == (Keep(),), "everything is kept unless somebody says otherwise"
    config.write_text('[retention]\ndetail_days = 7\n[retention.projects."speech"]\ndetail_days = 0\n')
    policy = retention_policy(load_settings(config))
    assert (policy.of("mt").detail_days, policy.of("speech").detail_days) == (7.0, None)
    config.write_text('[retention.projects."speech"]\nkeep_dayz = 5\n')
    with pytest.raises(ConfigError, match=r"retention\.projects\.speech\.keep_dayz: did you mean keep_days"):
        load_settings(config)


@pytest.mark.parametrize(("text", "bits"), [("10", 10), ('"lossless"', 23)])
def test_norms_are_kept_as_exactly_as_one_asks_for(config: Path, text: str, bits: int) -> None:
    config.write_text(f'[storage]\nmantissa_bits = {text}\nlossless_projects = ["mt"]\n')
    storage = load_settings(config).storage
    assert (storage.mantissa_bits, storage.lossless_projects) == (bits, ("mt",))


@pytest.mark.parametrize("text", ["7", "24", '"exact"'])
def test_a_mantissa_that_does_not_exist_is_refused(config: Path, text: str) -> None:
    config.write_text(f"[storage]\nmantissa_bits = {text}\n")
    with pytest.raises(ConfigError, match=r"storage\.mantissa_bits: "):
        load_settings(config)


def test_a_memory_limit_must_leave_room_for_runs(tmp_path: Path) -> None:
    file = tmp_path / "seismograd.toml"
    file.write_text("max_memory_bytes = 536870912\n")
    with pytest.raises(ConfigError, match=r"max_memory_bytes 536870912 .* 4 x max_inflight_bytes .* make it 537919488"):
        load_settings(file)
    file.write_text("max_memory_bytes = 537919488\n")
    assert load_settings(file).standing_bytes == 2**20
    file.write_text("max_memory_bytes = 536870912\nmax_inflight_bytes = 33554432\n")
    assert load_settings(file).standing_bytes == 2**27
