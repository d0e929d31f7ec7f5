from __future__ import annotations

from pathlib import Path

from seismograd_server.app.shown import shown_settings
from seismograd_server.config import load_settings

SECRETS = ["hunter2", "T0/B0/abc", "xoxb-1"]
CONFIG = """
database_url = "postgresql://ada:hunter2@db.example:5432/seismograd?sslmode=require"
external_url = "https://seismograd.example"
lost_after_seconds = 90
[retention.projects.mt]
keep_days = 7
[[notify.webhooks]]
name = "ops"
url = "https://hooks.example/services/T0/B0/abc"
secret = "xoxb-1"
projects = ["mt", "asr-*"]
[[notify.chats]]
url = "slack://xoxb-1/T0/B0/abc"
"""


def test_every_setting_is_shown_with_its_default_and_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "seismograd.toml"
    file.write_text(CONFIG)
    tables = {table.name: {each.name: each for each in table.entries} for table in shown_settings(load_settings(file))}
    everything = repr(tables)
    assert not [secret for secret in SECRETS if secret in everything]
    server = tables["server"]
    assert server["database_url"].value == "postgresql://db.example:5432/…"
    assert (server["lost_after_seconds"].value, server["lost_after_seconds"].default) == ("90", "60")
    assert server["lost_after_seconds"].changed
    assert not server["close_wait_seconds"].changed
    assert server["external_url"].value == "https://seismograd.example"
    assert tables["notify.webhooks.1"]["url"].value == "https://hooks.example/…"
    assert tables["notify.webhooks.1"]["secret"].value == "(secret)"
    assert tables["notify.webhooks.1"]["projects"].value == "mt, asr-*"
    assert tables["notify.chats.1"]["url"].value == "(secret)"
    assert tables["retention.projects.mt"]["keep_days"].value == "7"
    assert "notify" in tables
