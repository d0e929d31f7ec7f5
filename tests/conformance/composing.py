"""What the client sent, decoded and composed by the server's own code."""

from __future__ import annotations

from collections.abc import Sequence

from seismograd_proto.v1 import telemetry
from seismograd_server.detect.align import Aligner, Patience
from seismograd_server.detect.compose import Composer
from seismograd_server.ingest.decode import Decoder
from seismograd_server.ingest.identities import decode_catalog
from seismograd_server.ingest.limits import IngestLimits
from seismograd_server.model import Catalog, ClosedBlock


def compose(sent: Sequence[tuple[bytes, Sequence[bytes]]]) -> list[ClosedBlock]:
    """The closed blocks of one run, given each rank's OpenRunRequest and frames, in order of rank.

    Raises:
        ValueError: something was sent that the server refuses.
    """
    aligner = Aligner(len(sent), Patience(), now=0.0)
    composer = Composer(len(sent), 1)
    limits = IngestLimits()
    for rank, (opening, frames) in enumerate(sent):
        known: dict[int, Catalog] = {}
        for wire in telemetry.OpenRunRequest.FromString(opening).catalogs:
            known[wire.version] = decode_catalog(wire, limits)
        decoder = Decoder(lambda _handle, _optimizer, version, known=known: known.get(version), limits)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        for frame in frames:
            arrival = decoder.decode([frame], known_handles=(1,))
            if arrival.rejections:
                raise ValueError(f"rank {rank}: {arrival.rejections[0]}")
            for _, catalog in arrival.catalogs:
                known[catalog.version] = catalog
            for batch in arrival.batches:
                aligner.offer(rank, batch, now=0.0)
        composer.catalogs |= {(rank, version): catalog for version, catalog in known.items()}
    return [block for closing in aligner.close_all() for block in composer.compose(closing)]
