from __future__ import annotations

import os
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from seismograd_server.errors import ConfigError
from seismograd_server.instruments import Instruments
from seismograd_server.model import RunKey, Signature
from seismograd_server.rules.file import RulesFile, RulesInForce, read_rules

MUTE = "signature.spike.mute = true\n"


class Followed:
    """A file of rules and who follows it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.instruments = Instruments(CollectorRegistry())
        self.now = 0
        self.write(MUTE)
        self.file = RulesFile(path, self.instruments)

    def write(self, text: str) -> None:
        self.now += 1
        self.path.write_text(text)
        os.utime(self.path, ns=(self.now, self.now))

    def muted(self) -> set[Signature]:
        self.file.step(0.0)
        return set(self.file.current().for_run(RunKey("p", "r"), {}).watch.muted)

    def reloads(self, result: str) -> float | None:
        return self.instruments.registry.get_sample_value("seismograd_rules_reloads_total", {"result": result})

    def is_refused(self) -> float | None:
        return self.instruments.registry.get_sample_value("seismograd_rules_refused")


@pytest.fixture
def followed(tmp_path: Path) -> Followed:
    return Followed(tmp_path / "rules.toml")


def test_a_changed_file_is_read_again(followed: Followed) -> None:
    assert followed.muted() == {Signature.SPIKE}
    followed.write("signature.vanishing.mute = true\n")
    assert followed.muted() == {Signature.VANISHING}
    assert (followed.reloads("loaded"), followed.reloads("refused")) == (1.0, 0.0)


def test_a_file_that_has_not_changed_is_left_alone(followed: Followed) -> None:
    before = followed.file.current()
    assert not followed.file.step(0.0)
    assert followed.file.current() is before
    assert followed.reloads("loaded") == 0.0


@pytest.mark.parametrize("text", ["signature.spike.mute = 1\n", "[", "\udcff"])
def test_a_broken_file_changes_nothing_and_is_counted_once(followed: Followed, text: str) -> None:
    followed.write("")
    followed.path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert followed.muted() == followed.muted() == {Signature.SPIKE}
    assert (followed.reloads("loaded"), followed.reloads("refused")) == (0.0, 1.0)
    assert followed.is_refused() == 1.0
    followed.write("")
    assert followed.muted() == set()
    assert followed.is_refused() == 0.0


def test_a_file_that_is_gone_changes_nothing_until_it_is_back(followed: Followed) -> None:
    followed.path.unlink()
    assert followed.muted() == followed.muted() == {Signature.SPIKE}
    assert followed.reloads("refused") == 1.0
    followed.write("")
    assert followed.muted() == set()


def test_a_server_does_not_begin_with_rules_that_it_cannot_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rules .*nowhere\.toml cannot be read: No such file"):
        RulesFile(tmp_path / "nowhere.toml", Instruments(CollectorRegistry()))
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_rules(tmp_path / "bytes.toml")


def test_people_are_shown_the_rules_in_force_and_why_a_newer_file_is_not(followed: Followed) -> None:
    assert followed.file.in_force() == RulesInForce(str(followed.path), MUTE)
    followed.write("signature.spike.mute = 3\n")
    followed.muted()
    shown = followed.file.in_force()
    assert (shown.source, shown.text) == (str(followed.path), MUTE)
    assert "mute" in shown.refusal
    followed.write("")
    followed.muted()
    assert followed.file.in_force() == RulesInForce(str(followed.path), "")
