"""Names made safe to look at: what cannot be printed, or would reorder a line, becomes a visible escape."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable

# Cc control, Cf format (bidirectional overrides, zero-width), Cs lone surrogates, Zl and Zp line separators: invisible
# or able to make one name look like another. Emoji joiners are lost with Cf, which is a price worth paying.
_UNSHOWN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def printable(text: str) -> str:
    r"""The text with every invisible or reordering character as an escape; always encodable as UTF-8.

    >>> printable("a\x00b\u202ec")
    'a\\x00b\\u202ec'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(letter) if unicodedata.category(letter) in _UNSHOWN else letter for letter in text)


def _escape(letter: str) -> str:
    code = ord(letter)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shortened(text: str, length: int) -> str:
    """At most `length` characters, the middle left out: both ends of a parameter's name say which one it is.

    >>> shortened("encoder.layers.11.self_attn.in_proj_weight", 20)
    'encoder.l…roj_weight'
    """
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def file_stem(text: str) -> str:
    """A name for a file: ASCII letters, digits, dot, dash and underscore only, never empty or hidden.

    >>> file_stem("../mt/lstm 7")
    'mt-lstm-7'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-_")[:100] or "run"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was most likely meant, or None when nothing is near.

    >>> nearest("lstn-7", ["lstm-7", "mlp"])
    'lstm-7'
    """
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def plural(count: int, noun: str, many: str = "") -> str:
    """A count with its noun in the right number.

    >>> plural(1, "step"), plural(2000, "step")
    ('1 step', '2,000 steps')
    """
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"
