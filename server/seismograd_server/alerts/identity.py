"""Names of alerts that any replay, on any server, arrives at again."""

from __future__ import annotations

import hashlib

from seismograd_server.model import RunKey, Signature

# Separates the parts below; a name may hold anything else, so ("a", "b/c") and ("a/b", "c") stay different.
_SEPARATOR = b"\x00"
# 96 bits in hexadecimal: short enough to type, and a collision stays out of reach for any number of alerts.
_ALERT_ID_LENGTH = 24


def alert_id(run_id: int, signature: Signature, scope: str, opened_step: int) -> str:
    """The id of the alert that `signature` opened for `scope` at this step: 24 hexadecimal digits."""
    return _digest(str(run_id), signature.value, scope, str(opened_step))[:_ALERT_ID_LENGTH]


def fingerprint(key: RunKey, signature: Signature, scope: str) -> str:
    """What is the same about all alerts of one condition of one run: 64 hexadecimal digits (SHA-256)."""
    return _digest(key.project, key.run, signature.value, scope)


def _digest(*parts: str) -> str:
    # A lone surrogate cannot be encoded otherwise, and must not keep an alert from opening.
    return hashlib.sha256(_SEPARATOR.join(part.encode("utf-8", "surrogatepass") for part in parts)).hexdigest()
