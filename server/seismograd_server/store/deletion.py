"""Deleting a run with everything of it."""

from __future__ import annotations

from sqlalchemy import Connection, delete, func, select

from seismograd_server.errors import NotFoundError
from seismograd_server.store.alert_tables import alert_transitions, alerts
from seismograd_server.store.directive_tables import directive_addressees, directives
from seismograd_server.store.schema import (
    catalog_uses,
    catalogs,
    checkpoints,
    closed_blocks,
    detector_states,
    drops,
    health,
    launches,
    optimizers,
    outbox,
    ranks,
    runs,
    segments,
    streams,
)
from seismograd_server.store.summary_tables import summaries, summary_lines

# Segments deleted in one part, however small they are; every database takes so many bound parameters.
_SEGMENTS = 256


def delete_segments(connection: Connection, run_id: int, max_bytes: int) -> int:
    """Delete some segments of a run, about so many bytes of them but at least one, and tell how many."""
    of_launches = select(launches.c.launch_row).where(launches.c.run_id == run_id)
    some = select(segments.c.segment_id, func.length(segments.c.payload).label("size"))
    some = some.where(segments.c.launch_row.in_(of_launches)).limit(_SEGMENTS)
    chosen: list[int] = []
    for row in connection.execute(some).all():
        chosen.append(row.segment_id)
        max_bytes -= row.size
        if max_bytes <= 0:
            break
    return connection.execute(delete(segments).where(segments.c.segment_id.in_(chosen))).rowcount


def delete_run(connection: Connection, run_id: int) -> None:
    """Delete every row of a run; the leaves first, so that no foreign key is ever in the way.

    Raises:
        NotFoundError: there is no such run.
    """
    of_launches = select(launches.c.launch_row).where(launches.c.run_id == run_id)
    of_ranks = select(ranks.c.handle).where(ranks.c.run_id == run_id)
    of_alerts = select(alerts.c.alert_row).where(alerts.c.run_id == run_id)
    of_directives = select(directives.c.directive_row).where(directives.c.run_id == run_id)
    named_alerts = select(alerts.c.alert_id).where(alerts.c.run_id == run_id)
    for statement in (
        delete(directive_addressees).where(directive_addressees.c.directive_row.in_(of_directives)),
        delete(directives).where(directives.c.run_id == run_id),
        delete(outbox).where(outbox.c.alert_id.in_(named_alerts)),
        delete(alert_transitions).where(alert_transitions.c.alert_row.in_(of_alerts)),
        delete(alerts).where(alerts.c.run_id == run_id),
        delete(detector_states).where(detector_states.c.run_id == run_id),
        delete(summaries).where(summaries.c.run_id == run_id),
        delete(summary_lines).where(summary_lines.c.run_id == run_id),
        delete(closed_blocks).where(closed_blocks.c.run_id == run_id),
        delete(segments).where(segments.c.launch_row.in_(of_launches)),
        delete(streams).where(streams.c.rank_handle.in_(of_ranks)),
        delete(drops).where(drops.c.rank_handle.in_(of_ranks)),
        delete(checkpoints).where(checkpoints.c.run_id == run_id),
        delete(health).where(health.c.run_id == run_id),
        delete(catalog_uses).where(catalog_uses.c.rank_handle.in_(of_ranks)),
        delete(catalogs).where(catalogs.c.run_id == run_id),
        delete(ranks).where(ranks.c.run_id == run_id),
        delete(optimizers).where(optimizers.c.launch_row.in_(of_launches)),
        delete(launches).where(launches.c.run_id == run_id),
    ):
        connection.execute(statement)
    if not connection.execute(delete(runs).where(runs.c.run_id == run_id)).rowcount:
        raise NotFoundError(f"there is no run with the id {run_id}")
