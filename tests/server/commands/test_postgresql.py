"""Commands that are given the URL of a PostgreSQL database."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from seismograd_server.store.database import Database
from tests.support.postgresql import Cluster, PostgresqlVersion
from tests.support.processes import free_port
from tests.support.seismograd import seismograd


@pytest.fixture
def cluster(postgresql_cluster: Callable[[PostgresqlVersion], Cluster]) -> Cluster:
    return postgresql_cluster("18")


@pytest.fixture
def empty_url(cluster: Cluster) -> Iterator[str]:
    url = cluster.new_database(empty=True)
    yield url
    cluster.drop_database(url)


def look(url: str) -> dict[str, object]:
    """What the doctor says of a database."""
    nowhere = f"127.0.0.1:{free_port()}"
    arguments = ("--server", nowhere, "--server-url", f"http://{nowhere}", "--database-url", url)
    result = seismograd("doctor", "--json", *arguments)
    (check,) = [each for each in json.loads(result.stdout)["checks"] if each["name"] == "database"]
    return dict(check)


def test_an_upgrade_makes_the_tables_of_an_empty_database(empty_url: str, cluster: Cluster) -> None:
    result = seismograd("db", "upgrade", "--database-url", empty_url, "--json")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["database"].startswith(Cluster.name_of(empty_url))
    assert answer["size_bytes"] > 0
    with cluster.connect(Cluster.name_of(empty_url)) as connection:
        assert connection.execute("SELECT epoch FROM server_epoch").fetchone() == (1,)


def test_an_upgrade_leaves_a_database_alone_that_a_server_has(empty_url: str) -> None:
    with Database.open(empty_url, owner="test"):
        result = seismograd("db", "upgrade", "--database-url", empty_url)
    assert result.returncode == 1
    assert "is in use by pid" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_database_is_checked_beside_the_server_that_has_it(empty_url: str) -> None:
    with Database.open(empty_url, owner="test"):
        result = seismograd("db", "check", "--database-url", empty_url, "--json")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert (answer["sound"], answer["payloads"], answer["damaged"]) == (True, 0, [])


def test_the_doctor_tells_of_a_database_and_of_whoever_has_it(empty_url: str) -> None:
    free = look(empty_url)
    assert free["ok"]
    assert "PostgreSQL 18." in str(free["detail"])
    assert str(free["detail"]).endswith("free")
    with Database.open(empty_url, owner="test"):
        assert "in use by pid" in str(look(empty_url)["detail"])


def test_the_doctor_says_what_a_database_lacks_without_its_password(empty_url: str, cluster: Cluster) -> None:
    with cluster.connect() as connection:
        connection.execute("CREATE USER guest PASSWORD 'hunter2'")
    guest = look(empty_url.replace("postgres@", "guest:hunter2@"))
    nobody = look(f"postgresql://ada:hunter2@127.0.0.1:{free_port()}/db")
    with cluster.connect() as connection:
        connection.execute("DROP USER guest")
    assert (guest["ok"], nobody["ok"]) == (False, False)
    assert "may not make tables there" in str(guest["detail"])
    assert "does not answer" in str(nobody["detail"])
    assert "hunter2" not in str((guest, nobody))


def test_the_doctor_looks_at_a_sqlite_file_by_its_url(tmp_path: object) -> None:
    assert look(f"sqlite:///{tmp_path}/data/seismograd.db")["detail"] == (
        f"SQLite, {tmp_path}/data/seismograd.db can be made"
    )
