"""The worker over a real store: at least once, in order, and nobody held up by somebody else's trouble."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry

from seismograd_server.alerts.lifecycle import advance
from seismograd_server.errors import StorageBusyError, StorageFencedError
from seismograd_server.instruments import Instruments
from seismograd_server.model import (
    AlertState,
    Evidence,
    Finding,
    RankIdentity,
    Run,
    RunKey,
    Severity,
    Signature,
    Transition,
)
from seismograd_server.notify import DeliveryPolicy, Target, TargetConfig, Worker, build_targets, entries_for
from seismograd_server.store.database import Database
from tests.support.monitoring import Alertmanager
from tests.support.processes import eventually
from tests.support.receiver import Answer, Received, Receiver
from tests.support.synthetic import stored_alerts

NOW = 1_700_000_000.0
DAY = 24 * 3600.0


class Clock:
    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Server:
    """What the pipeline does around the worker: transitions and their outbox rows in one transaction."""

    def __init__(self, database: Database, targets: Sequence[Target], clock: Callable[[], float]) -> None:
        self.database = database
        self.targets = targets
        self.clock = clock
        self.instruments = Instruments(CollectorRegistry())
        with database.begin() as transaction:
            identity = RankIdentity(RunKey("mt", "lstm-7"), "launch", 0, 1, "session")
            self.run: Run = transaction.runs.open_rank(identity, clock()).run

    def worker(self, policy: DeliveryPolicy | None = None) -> Worker:
        # The largest draw each time, so that a test knows when the next attempt is.
        return Worker(
            self.database,
            self.targets,
            self.instruments,
            self.clock,
            policy=policy or DeliveryPolicy(),
            external_url="https://seismograd.example",
            jitter=lambda _, high: high,
        )

    def find(
        self,
        step: int,
        severity: Severity = Severity.CRITICAL,
        signature: Signature = Signature.RUNAWAY,
        scope: str = "",
    ) -> list[Transition]:
        finding = Finding(signature, severity, scope, step, step, Evidence(value=9.0), f"seen at step {step}")
        with self.database.begin() as transaction:
            opened = transaction.alerts.open_for_run(self.run.run_id)
            recent = transaction.alerts.list(state=AlertState.RESOLVED)
            transitions = advance(opened, recent, [finding], self.run, self.clock())
            transaction.alerts.apply(transitions)
            for transition in transitions:
                transaction.outbox.add(
                    entries_for(transition, self.targets, self.clock(), "https://seismograd.example")
                )
        return transitions

    def pending(self) -> int:
        with self.database.read() as transaction:
            return transaction.outbox.pending_count()

    def counted(self, target: int, result: str) -> float:
        name = self.targets[target].name
        value = self.instruments.registry.get_sample_value(
            "seismograd_notifications_total", {"target": name, "result": result}
        )
        assert value is not None, "every result is known from the start"
        return value


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database.open(f"sqlite:///{tmp_path / 'seismograd.db'}", owner="test") as opened:
        yield opened


def alertmanager(receiver: Receiver) -> TargetConfig:
    return TargetConfig("alertmanager", receiver.url)


def webhook(receiver: Receiver) -> TargetConfig:
    return TargetConfig("webhook", receiver.url, secret="hush", allow_hosts=("127.0.0.1",))


async def once(worker: Worker) -> None:
    await worker.tick()
    await worker.drain()


def rounds(*steps: Callable[[], Awaitable[object] | object]) -> None:
    """Run the steps of a story in one event loop."""

    async def story() -> None:
        for step in steps:
            result = step()
            if isinstance(result, Awaitable):
                await result

    asyncio.run(story())


def names(request: Received) -> list[str]:
    return [alert["labels"]["scope"] for alert in request.json()]


# No reminders: those tests that are not about them count requests.
QUIET = DeliveryPolicy(resend_seconds=10 * DAY)


def quiet(server: Server) -> Worker:
    worker = server.worker(QUIET)
    worker._next_reminder_at = NOW + 10 * DAY
    return worker


def test_every_target_hears_of_a_firing_and_of_its_end(
    database: Database, make_receiver: Callable[..., Receiver]
) -> None:
    endpoints = [make_receiver(), make_receiver(), make_receiver()]
    configs = [alertmanager(endpoints[0]), alertmanager(endpoints[1]), webhook(endpoints[2])]
    server = Server(database, build_targets(configs, 30.0), Clock())
    worker = quiet(server)
    rounds(
        lambda: server.find(40),
        lambda: once(worker),
        lambda: server.find(60, Severity.NONE),
        lambda: once(worker),
    )
    for endpoint in endpoints[:2]:
        first, second = (each.json()[0] for each in endpoint.requests)
        assert first["endsAt"] == "2023-11-14T22:15:20.000Z"
        assert second["endsAt"] == "2023-11-14T22:13:20.000Z"
        assert first["labels"] == second["labels"]
    assert [each.json()["state"] for each in endpoints[2].requests] == ["firing", "resolved"]
    assert server.pending() == 0
    assert [server.counted(each, "delivered") for each in range(3)] == [2.0, 2.0, 2.0]


def test_nothing_is_written_for_what_nobody_needs_to_hear(database: Database, receiver: Receiver) -> None:
    server = Server(database, build_targets([webhook(receiver)], 30.0), Clock())
    server.find(40)
    (worsened,) = server.find(41)
    assert not worsened.notify
    assert server.pending() == 1


def test_one_bad_alert_costs_its_batch_a_second_round_and_no_more(database: Database, receiver: Receiver) -> None:
    def picky(request: Received) -> Answer:
        return Answer(400, body=b"bad label") if "rank:2" in names(request) else Answer()

    receiver.answer = picky
    server = Server(database, build_targets([alertmanager(receiver)], 30.0), Clock())
    worker = quiet(server)
    for rank in range(4):
        server.find(40, scope=f"rank:{rank}")
    with structlog.testing.capture_logs() as lines:
        rounds(lambda: once(worker), lambda: once(worker))
    (lost,) = [line for line in lines if line["event"] == "a notification is dropped"]
    (refused,) = [alert for alert in stored_alerts(database) if alert.scope == "rank:2"]
    assert (lost["alert"], lost["reason"]) == (refused.alert_id, "answered 400: bad label")
    assert [names(each) for each in receiver.requests] == [
        ["rank:0", "rank:1", "rank:2", "rank:3"],
        ["rank:0"],
        ["rank:1"],
        ["rank:2"],
        ["rank:3"],
    ]
    assert (server.counted(0, "delivered"), server.counted(0, "dropped")) == (3.0, 1.0)
    assert server.pending() == 0


def test_a_target_that_fails_is_tried_again_after_longer_and_longer_waits(
    database: Database, receiver: Receiver
) -> None:
    clock = Clock()
    receiver.answer = lambda _: Answer(500)
    server = Server(database, build_targets([webhook(receiver)], 30.0), clock)
    worker = quiet(server)

    async def story() -> None:
        server.find(40)
        for wait in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0):
            sent = len(receiver.requests)
            await once(worker)
            assert len(receiver.requests) == sent + 1
            clock.now += wait - 0.01
            await once(worker)
            assert len(receiver.requests) == sent + 1, f"tried again before {wait} s had passed"
            clock.now += 0.01
        receiver.answer = lambda _: Answer()
        await once(worker)

    asyncio.run(story())
    assert (server.counted(0, "retried"), server.counted(0, "delivered")) == (9.0, 1.0)
    assert server.pending() == 0


def test_news_does_not_overtake_older_news_that_waits(database: Database, receiver: Receiver) -> None:
    clock = Clock()
    receiver.answer = lambda _: Answer(503)
    server = Server(database, build_targets([webhook(receiver)], 30.0), clock)

    async def story() -> None:
        server.find(40)
        await once(quiet(server))
        receiver.answer = lambda _: Answer()
        server.find(60, Severity.NONE)
        # A new worker, as after a restart: the order is in the store, not in its memory.
        worker = quiet(server)
        await once(worker)
        assert len(receiver.requests) == 1
        clock.now += 1.0
        await once(worker)

    asyncio.run(story())
    assert [each.json()["state"] for each in receiver.requests] == ["firing", "firing", "resolved"]


def test_an_undelivered_notification_is_given_up_after_a_day_and_counted(
    database: Database, receiver: Receiver
) -> None:
    clock = Clock()
    receiver.answer = lambda _: Answer(500)
    server = Server(database, build_targets([webhook(receiver)], 30.0), clock)
    worker = quiet(server)

    async def story() -> None:
        server.find(40)
        clock.now += DAY - 1
        await once(worker)
        assert server.pending() == 1
        clock.now += 2
        await once(worker)

    with structlog.testing.capture_logs() as lines:
        asyncio.run(story())
    assert server.pending() == 0
    assert (server.counted(0, "retried"), server.counted(0, "expired")) == (1.0, 1.0)
    (lost,) = [line for line in lines if line["event"] == "a notification is dropped"]
    assert lost["alert"] == stored_alerts(database)[0].alert_id


def test_what_was_not_delivered_when_the_server_died_is_delivered_by_the_next_one(
    database: Database, receiver: Receiver
) -> None:
    server = Server(database, build_targets([webhook(receiver)], 30.0), Clock())
    server.find(40)
    rounds(lambda: once(quiet(server)))
    assert len(receiver.requests) == 1


def test_a_target_that_hangs_holds_up_nobody_else(database: Database, make_receiver: Callable[..., Receiver]) -> None:
    hanging, well = make_receiver(), make_receiver()
    stall = threading.Event()
    hanging.answer = lambda _: Answer(stall=stall)
    server = Server(database, build_targets([webhook(hanging), webhook(well)], 30.0), Clock())
    worker = quiet(server)

    async def story() -> None:
        server.find(40)
        await worker.tick()
        await asyncio.to_thread(hanging.wait_for, lambda got: len(got) == 1)
        await asyncio.to_thread(well.wait_for, lambda got: len(got) == 1)
        server.find(60, Severity.NONE)
        await asyncio.wait([worker._in_flight[server.targets[1].name]])
        await worker.tick()
        await asyncio.to_thread(well.wait_for, lambda got: len(got) == 2)
        assert len(hanging.requests) == 1
        stall.set()
        await worker.drain()
        await once(worker)

    asyncio.run(story())
    assert [each.json()["state"] for each in hanging.requests] == ["firing", "resolved"]


def test_a_firing_alert_is_repeated_to_alertmanagers_and_a_resolved_one_for_five_minutes(
    database: Database, make_receiver: Callable[..., Receiver]
) -> None:
    clock = Clock()
    forgetful, mindful = make_receiver(), make_receiver()
    server = Server(database, build_targets([alertmanager(forgetful), webhook(mindful)], 30.0), clock)
    worker = server.worker()

    async def story() -> None:
        server.find(40)
        await once(worker)
        for _ in range(3):
            clock.now += 30.0
            await once(worker)
        server.find(60, Severity.NONE)
        for _ in range(11):
            clock.now += 30.0
            await once(worker)

    asyncio.run(story())
    assert len(mindful.requests) == 2
    ends = [
        datetime.fromisoformat(alert["endsAt"]).timestamp() - NOW
        for each in forgetful.requests
        for alert in each.json()
    ]
    # The first, three reminders with a later end each; then the end itself, and as long as five minutes after it.
    assert ends[:4] == [120.0, 150.0, 180.0, 210.0]
    assert set(ends[4:]) == {90.0}
    assert 9 <= len(ends[4:]) <= 11
    assert server.counted(0, "reminded") == len(ends) - 2


def test_an_inhibited_alert_is_not_repeated_either(database: Database, receiver: Receiver) -> None:
    clock = Clock()
    server = Server(database, build_targets([alertmanager(receiver)], 30.0), clock)
    worker = server.worker()

    async def story() -> None:
        server.find(40)
        (spike,) = server.find(40, Severity.WARNING, Signature.SPIKE)
        assert spike.alert.inhibited_by == "runaway"
        await once(worker)
        clock.now += 30.0
        await once(worker)

    asyncio.run(story())
    assert {alert["labels"]["signature"] for each in receiver.requests for alert in each.json()} == {"runaway"}


def test_a_reminder_that_one_alert_spoils_still_reaches_for_the_others(database: Database, receiver: Receiver) -> None:
    clock = Clock()
    server = Server(database, build_targets([alertmanager(receiver)], 30.0), clock)
    worker = server.worker()
    for rank in range(3):
        server.find(40, scope=f"rank:{rank}")

    async def story() -> None:
        await once(worker)
        receiver.answer = lambda request: Answer(400) if "rank:1" in names(request) else Answer()
        clock.now += 30.0
        await once(worker)
        receiver.answer = lambda _: Answer(500)
        clock.now += 30.0
        await once(worker)

    asyncio.run(story())
    assert server.counted(0, "reminded") == 2.0
    assert server.counted(0, "not_reminded") == 4.0
    assert server.pending() == 0


def test_rows_of_a_target_that_is_not_configured_wait_for_it(database: Database, receiver: Receiver) -> None:
    clock = Clock()
    server = Server(database, build_targets([webhook(receiver)], 30.0), clock)
    server.find(40)
    bystander = Worker(database, [], server.instruments, clock)
    rounds(lambda: once(bystander))
    assert server.pending() == 1
    clock.now += 301.0
    rounds(lambda: once(quiet(server)))
    assert len(receiver.requests) == 1


def test_a_delivery_that_could_not_be_recorded_is_recorded_later_and_not_sent_again(
    database: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(database, build_targets([webhook(receiver)], 30.0), Clock())
    worker = quiet(server)
    # Old rows are deleted with the first look, which writes as well: here only what was delivered is to be written.
    rounds(worker.tick)
    server.find(40)

    def busy() -> Any:
        raise StorageBusyError("database: busy")

    async def story() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(database, "begin", busy)
            await worker.tick()
            with pytest.raises(StorageBusyError):
                await worker.drain()
        await once(worker)

    asyncio.run(story())
    assert len(receiver.requests) == 1
    assert server.pending() == 0
    assert server.counted(0, "delivered") == 1.0


def test_a_server_that_died_between_sending_and_recording_sends_again_under_the_same_id(
    database: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(database, build_targets([webhook(receiver)], 30.0), Clock())
    server.find(40)

    def dies(*_: object) -> None:
        raise StorageBusyError("this is where the process ended")

    async def story() -> None:
        first = quiet(server)
        monkeypatch.setattr(next(iter(first._lanes.values())), "_record_delivery", dies)
        await first.tick()
        with pytest.raises(StorageBusyError):
            await first.drain()
        await once(quiet(server))

    asyncio.run(story())
    one, two = (each.json()["notification_id"] for each in receiver.requests)
    assert one == two
    assert server.pending() == 0


class Broken:
    name = "broken"
    batch_size = 1
    resends = False
    projects: tuple[str, ...] = ()
    hold_resolved_seconds = 0.0

    async def send(self, notes: Sequence[Any], now: float) -> None:
        raise ZeroDivisionError(f"a mistake with {len(notes)} notes at {now}")


def test_a_mistake_in_one_target_neither_stops_the_worker_nor_loses_the_notification(
    database: Database, receiver: Receiver
) -> None:
    server = Server(database, [Broken(), *build_targets([webhook(receiver)], 30.0)], Clock())
    server.find(40)
    rounds(lambda: once(quiet(server)))
    assert len(receiver.requests) == 1
    assert (server.pending(), server.counted(0, "retried")) == (1, 1.0)


def test_run_delivers_as_soon_as_it_is_woken_and_ends_when_it_is_stopped(
    database: Database, receiver: Receiver
) -> None:
    server = Server(database, build_targets([webhook(receiver)], 30.0), Clock())
    # A poll so slow that only waking can explain a delivery.
    worker = server.worker(replace(QUIET, poll_seconds=3600.0))

    async def story() -> None:
        running = asyncio.create_task(worker.run())
        await asyncio.sleep(0)

        def commit() -> None:
            server.find(40)
            worker.wake()

        await asyncio.to_thread(commit)
        await asyncio.to_thread(receiver.wait_for, lambda got: len(got) == 1)
        await worker.stop()
        await running

    asyncio.run(story())
    assert server.pending() == 0


def test_run_outlasts_a_store_that_is_busy_and_ends_when_another_server_owns_it(
    database: Database, receiver: Receiver, tmp_path: Path
) -> None:
    server = Server(database, build_targets([webhook(receiver)], 30.0), Clock())
    worker = server.worker(replace(QUIET, poll_seconds=0.01))
    outcomes: list[Exception] = [StorageBusyError("busy"), StorageBusyError("busy"), StorageFencedError("taken over")]

    async def story() -> None:
        real = worker._read

        def troubled(now: float) -> Any:
            if outcomes:
                raise outcomes.pop(0)
            return real(now)

        worker._read = troubled  # type: ignore[method-assign]  # a store in trouble, on demand
        with pytest.raises(StorageFencedError, match="taken over"):
            await worker.run()

    asyncio.run(story())
    count = server.instruments.registry.get_sample_value("seismograd_storage_errors_total", {"op": "notify"})
    assert count == 2.0


def test_a_real_alertmanager_tells_its_receiver_of_firing_and_of_resolved(
    database: Database, receiver: Receiver, start_alertmanager: Callable[[str], Alertmanager]
) -> None:
    manager = start_alertmanager(receiver.url)
    server = Server(database, build_targets([TargetConfig("alertmanager", manager.url)], 30.0), time.time)
    worker = server.worker()

    def told(status: str) -> Callable[[list[Received]], bool]:
        return lambda got: any(each.json()["status"] == status for each in got)

    async def story() -> None:
        running = asyncio.create_task(worker.run())
        await asyncio.to_thread(server.find, 40, Severity.WARNING)
        worker.wake()
        await asyncio.to_thread(receiver.wait_for, told("firing"))
        await asyncio.to_thread(server.find, 41, Severity.CRITICAL)
        worker.wake()
        # The milder alert is another one to Alertmanager, and must not stay behind.
        await asyncio.to_thread(
            eventually, lambda: [each["labels"]["severity"] for each in manager.alerts()] == ["critical"], 30.0, "one"
        )
        (active,) = await asyncio.to_thread(manager.alerts)
        assert active["labels"]["alertname"] == "SeismogradRunaway"
        assert active["generatorURL"] == "https://seismograd.example/runs/mt/lstm-7"
        await asyncio.to_thread(server.find, 60, Severity.NONE)
        worker.wake()

        def critical_resolved(got: list[Received]) -> bool:
            return any(
                alert["status"] == "resolved" and alert["labels"]["severity"] == "critical"
                for each in got
                for alert in each.json()["alerts"]
            )

        await asyncio.to_thread(receiver.wait_for, critical_resolved)
        await worker.stop()
        await running

    asyncio.run(story())
    assert (server.counted(0, "delivered"), server.counted(0, "dropped")) == (3.0, 0.0)
    firing = next(each.json() for each in receiver.requests if each.json()["status"] == "firing")
    assert firing["alerts"][0]["annotations"]["summary"] == "The gradient norm is running away"


def test_a_real_alertmanager_that_was_down_hears_of_what_it_missed(
    database: Database, receiver: Receiver, start_alertmanager: Callable[..., Alertmanager]
) -> None:
    manager = start_alertmanager(receiver.url)
    manager.process.kill()
    server = Server(database, build_targets([TargetConfig("alertmanager", manager.url)], 30.0), time.time)
    server.find(40)
    rounds(lambda: once(quiet(server)))
    assert (server.pending(), server.counted(0, "retried")) == (1, 1.0)
    assert receiver.requests == []
    start_alertmanager(receiver.url, manager.url)

    async def story() -> None:
        worker = server.worker()
        running = asyncio.create_task(worker.run())
        await asyncio.to_thread(receiver.wait_for, lambda got: len(got) >= 1)
        await asyncio.to_thread(eventually, lambda: server.pending() == 0, 30.0, "the outbox is empty")
        await worker.stop()
        await running

    asyncio.run(story())
    assert receiver.requests[0].json()["alerts"][0]["labels"]["run"] == "lstm-7"


def test_a_target_that_is_down_crowds_out_nobody_however_much_waits_for_it(
    database: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seismograd_server.notify.worker._LIMIT", 3)
    gone = TargetConfig("webhook", "http://127.0.0.1:9", "gone", secret="hush", allow_hosts=("127.0.0.1",))
    server = Server(database, build_targets([gone, webhook(receiver)], 30.0), Clock())
    for step in range(10):
        server.find(step, scope=f"layer:{step}")
    with database.begin() as transaction:  # the other target has had them all but the newest
        for entry in transaction.outbox.waiting(100)[server.targets[1].name][:-1]:
            transaction.outbox.delivered(entry.entry_id or 0, NOW)
    worker = server.worker(QUIET)
    rounds(lambda: once(worker))
    assert [each.json()["scope"] for each in receiver.requests] == ["layer:9"]


def test_a_clock_that_is_set_back_silences_nobody(database: Database, receiver: Receiver) -> None:
    clock = Clock()
    server = Server(database, build_targets([alertmanager(receiver)], 30.0), clock)
    worker = server.worker()
    server.find(10)
    rounds(lambda: once(worker), lambda: once(worker))
    told = len(receiver.requests)
    clock.now -= 3600.0
    receiver.answer = lambda _: Answer(503)
    server.find(11, scope="other")
    rounds(lambda: once(worker))  # put off
    receiver.answer = lambda _: Answer(200)
    clock.now -= 3600.0
    rounds(lambda: once(worker))
    clock.now += 31.0
    rounds(lambda: once(worker))
    scopes = [alert["labels"].get("scope", "") for each in receiver.requests[told:] for alert in each.json()]
    assert scopes[1] == "other", "tried again at once, not after the hour that was set back"
    assert "" in scopes, "and the alert that still fires is repeated"


def test_the_end_of_what_has_only_just_begun_is_held_back_from_alertmanager_alone(
    database: Database, make_receiver: Callable[..., Receiver]
) -> None:
    grouping, plain = make_receiver(), make_receiver()
    clock = Clock()
    server = Server(database, build_targets([alertmanager(grouping), webhook(plain)], 30.0, 45.0), clock)
    worker = server.worker()

    def told() -> list[tuple[str, bool]]:
        found = [alert for each in grouping.requests for alert in each.json()]
        ends = [(each["labels"].get("scope", ""), datetime.fromisoformat(each["endsAt"]).timestamp()) for each in found]
        return [(scope, end > clock.now) for scope, end in ends]

    async def story() -> None:
        server.find(40)
        server.find(41, Severity.NONE)  # over before anybody could be told
        await once(worker)
        assert told() == [("", True)]
        server.find(42, scope="rank:1")
        for _ in range(4):
            clock.now += 10.0
            await once(worker)
            await once(worker)
        assert ("", False) not in told(), "neither from the outbox nor as a reminder"
        assert ("rank:1", True) in told(), "and nobody else waits for it"
        clock.now += 10.0
        await once(worker)
        assert ("", False) in told()

    asyncio.run(story())
    assert [each.json()["state"] for each in plain.requests] == ["firing", "resolved", "firing"]
    assert server.pending() == 0


def test_alertmanager_tells_people_of_an_explosion_that_is_over_at_once(
    database: Database, receiver: Receiver, start_alertmanager: Callable[..., Alertmanager]
) -> None:
    manager = start_alertmanager(receiver.url, group_wait="2s")
    server = Server(database, build_targets([TargetConfig("alertmanager", manager.url)], 30.0, 4.0), time.time)
    worker = server.worker()

    async def story() -> None:
        running = asyncio.create_task(worker.run())
        server.find(40)
        server.find(41, Severity.NONE)
        worker.wake()
        heard = [
            each.json()["status"] for each in await asyncio.to_thread(receiver.wait_for, lambda got: len(got) >= 2)
        ]
        assert heard[:2] == ["firing", "resolved"]
        await worker.stop()
        await running

    asyncio.run(story())


def test_a_target_is_told_of_its_own_projects_only(database: Database, make_receiver: Callable[..., Receiver]) -> None:
    speech, everybody, vision = make_receiver(), make_receiver(), make_receiver()
    configs = [
        replace(webhook(speech), projects=("speech-*", "m?")),
        webhook(everybody),
        replace(alertmanager(vision), projects=("vision",)),
    ]
    clock = Clock()
    server = Server(database, build_targets(configs, 30.0), clock)
    worker = server.worker()

    async def story() -> None:
        server.find(40)
        await once(worker)
        clock.now += 31.0
        await once(worker)

    asyncio.run(story())
    assert [len(each.requests) for each in (speech, everybody)] == [1, 1]
    assert [each.json() for each in vision.requests] == [], "no reminder either"


def test_whatever_the_others_do_a_good_target_hears_and_everything_is_counted(
    database: Database, make_receiver: Callable[..., Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The hanging one costs the test this much; the good one must be able to answer on a machine that stalls.
    monkeypatch.setattr("seismograd_server.notify.http.TIMEOUT_SECONDS", 3.0)
    refusing, failing, hanging, lying, leading, private, good = (make_receiver() for _ in range(7))
    stall = threading.Event()
    refusing.answer = lambda _: Answer(400, body=b"bad label")
    failing.answer = lambda _: Answer(500, body=b"\xff" * 1000)
    hanging.answer = lambda _: Answer(stall=stall)
    lying.answer = lambda _: Answer(200, {"Content-Type": "application/json"}, b"<html>not stored</html>")
    leading.answer = lambda _: Answer(307, {"Location": f"{private.url}/latest/meta-data"})
    labels = {"team": "\ud800"}  # as JSON in the environment may say it; protobuf and TOML cannot
    managers = [replace(alertmanager(each), labels=labels) for each in (refusing, failing, hanging, lying)]
    configs = [*managers, webhook(leading), webhook(good)]
    server = Server(database, build_targets(configs, 30.0), Clock())
    worker = quiet(server)
    try:
        server.find(40, scope="layer:\u202e")
        rounds(lambda: once(worker))
        server.find(41, scope="layer:fine")
        rounds(lambda: once(worker))
    finally:
        stall.set()
    assert [each.json()["scope"] for each in good.requests] == [r"layer:\u202e", "layer:fine"]
    assert lying.requests[0].json()[0]["labels"]["team"] == r"\ud800"
    assert private.requests == []
    results = ("delivered", "dropped", "retried")
    counts = [[server.counted(target, result) > 0 for result in results] for target in range(6)]
    assert counts == [
        [False, True, False],  # refused for good: dropped, and said so
        [False, False, True],  # it may be well again later
        [False, False, True],
        [True, False, False],  # its word is taken; what still fires is repeated to it
        [False, False, True],
        [True, False, False],
    ]
