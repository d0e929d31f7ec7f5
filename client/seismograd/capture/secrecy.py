"""What must not be shown of a configuration: values whose key says so, and secrets inside texts. Pure.

Too much is redacted rather than too little: a hyper-parameter can be looked up, a leaked key must be revoked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

REDACTED = "[redacted]"

# Words in a key that make any value a secret.
_SECRET_WORDS = frozenset(
    {
        "password", "passwords", "passwd", "passphrase", "pwd", "secret", "secrets", "credential", "credentials",
        "apikey", "apikeys", "accesskey", "secretkey", "privatekey", "authtoken", "accesstoken", "apitoken", "hftoken",
        "authorization", "cookie", "cookies", "webhook", "jwt",
    }
)  # fmt: skip
# Words that make texts a secret; numbers under them are sizes and flags ("key_size", "use_auth_token": true).
_SECRET_TEXT_WORDS = frozenset({"token", "tokens", "key", "keys", "auth", "pat", "bearer", "pass", "sas"})
# Texts under such a key that are no secret: counts and the like, as command lines and YAML give them.
_HARMLESS = re.compile(r"[-+]?[0-9.,_]{0,12}(?:[kKmMbB])?|true|false|none|null|auto|yes|no", re.IGNORECASE)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")

_PATTERNS = (
    # user:password@ inside a URL. A password may hold what a URL forbids; host:port before a path is none.
    (re.compile(r"(?<=://)(?:[^/\s@:]*:(?![0-9]{1,5}(?:/|$))\S*@|[^/\s@]+@)"), f"{REDACTED}@"),
    # The shapes that well-known services give their tokens.
    (
        re.compile(
            r"\b(?:hf_|sk-|sk_|ghp_|gho_|github_pat_|glpat-|xox[a-z]-|AKIA|ASIA|AIza|ya29\.|sg_)[\w.\-]{12,}"
        ),
        REDACTED,
    ),
    (re.compile(r"\beyJ[\w\-]{8,}\.[\w\-]{8,}(?:\.[\w\-]*)?"), REDACTED),  # JSON web token
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=\-]{8,}"), rf"\1 {REDACTED}"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), REDACTED),
    # name=value as in queries, connection strings and command lines.
    (
        re.compile(
            r"(?i)((?:password|passwd|pwd|secret|token|api[_-]?key|access[_-]?key(?:[_-]?id)?|signature|sig|credential)=)"
            r"[^\s&;,'\"]+"
        ),
        rf"\1{REDACTED}",
    ),
)  # fmt: skip


def words_of(key: str) -> frozenset[str]:
    """The words of a key in any of the usual spellings, in lower case."""
    return frozenset(word.lower() for word in _WORD.findall(key))


def hides_everything(key: str) -> bool:
    """Whether a key makes its value a secret, whatever it is."""
    words = words_of(key)
    return bool(words & _SECRET_WORDS) or {"api", "key"} <= words or {"api", "keys"} <= words


def hides_texts(key: str) -> bool:
    """Whether a key makes the texts under it a secret."""
    return bool(words_of(key) & _SECRET_TEXT_WORDS)


def is_harmless(text: str) -> bool:
    """Whether a text under such a key is no secret after all."""
    return _HARMLESS.fullmatch(text) is not None


def without_secrets(text: str) -> str:
    """A text with the secrets that show by their form redacted."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def follows_secret_option(values: Sequence[object], place: int) -> bool:
    """Whether a value stands behind an option such as `--api-key` in a list of arguments."""
    before = values[place - 1] if place else None
    if not isinstance(before, str) or not before.startswith("-") or "=" in before:
        return False
    return hides_everything(before) or hides_texts(before)
