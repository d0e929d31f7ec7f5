"""Silences as the pages show them."""

from __future__ import annotations

from typing import Any

from seismograd_server.display.numbers import duration
from seismograd_server.model import Silence


def silence_row(silence: Silence, now: float) -> dict[str, Any]:
    """A silence in words: of what, by whom, and for how long still."""
    parts = [
        f"project {silence.project}" if silence.project else "",
        f"runs {silence.run}" if silence.run else "",
        f"signature {silence.signature.value}" if silence.signature else "",
    ]
    return {
        "silence_id": silence.silence_id,
        "about": ", ".join(part for part in parts if part),
        "by": silence.author,
        "reason": silence.reason,
        "left": duration(max(0.0, silence.expires_at - now)),
    }
