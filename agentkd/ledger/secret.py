"""What counts as a secret: known shapes, named values, check digits, and tokens too random to be words.

Every shape begins with a sign, a literal that is looked for first: text without one costs a few searches at
the speed of memory. All patterns take linear time.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

__all__ = ["NAMING_KEYS", "PLACEHOLDER", "SECRET_KEYS", "Finding", "find_secrets", "may_hold"]

Finding = tuple[int, int, str]
"""Start, end and kind of a secret in a text."""

_SHAPES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "private-key",
        ("-----BEGIN",),
        r"-----BEGIN (?:[A-Z0-9]+ ){0,4}PRIVATE KEY(?: BLOCK)?-----"
        r"(?:(?!-----END)[\s\S])*(?:-----END [A-Z0-9 ]{0,40}-----)?",
    ),
    ("url-password", ("://",), r"(?<=://)[^\s/:@]{0,128}:(?P<secret>[^\s/@]{1,256})(?=@)"),
    ("api-key", ("sk-",), r"\bsk-[A-Za-z0-9_-]{16,}"),
    ("aws-key", ("AKIA", "ASIA"), r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    (
        "github-token",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})",
    ),
    ("gitlab-token", ("glpat-",), r"\bglpat-[A-Za-z0-9_-]{20,}"),
    ("google-key", ("AIza",), r"\bAIza[0-9A-Za-z_-]{35}"),
    ("google-token", ("ya29.",), r"\bya29\.[0-9A-Za-z_-]{20,}"),
    ("slack-token", ("xox",), r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    ("slack-hook", ("hooks.slack.com/",), r"hooks\.slack\.com/(?P<secret>services/[A-Za-z0-9/]{20,})"),
    ("stripe-key", ("_live_", "_test_"), r"\b[srp]k_(?:live|test)_[A-Za-z0-9]{16,}"),
    ("sendgrid-key", ("SG.",), r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"),
    ("npm-token", ("npm_",), r"\bnpm_[A-Za-z0-9]{30,}"),
    ("pypi-token", ("pypi-",), r"\bpypi-[A-Za-z0-9_-]{32,}"),
    ("hub-token", ("hf_",), r"\bhf_[A-Za-z0-9]{30,}"),
    ("shop-token", ("shp",), r"\bshp(?:at|ca|pa|ss)_[A-Fa-f0-9]{32}\b"),
    ("cloud-token", ("dop_v1_", "dapi"), r"\b(?:dop_v1_[a-f0-9]{64}|dapi[a-f0-9]{32})\b"),
    ("bot-token", (":AA",), r"\b\d{8,10}:AA[A-Za-z0-9_-]{30,}"),
    ("jwt", ("eyJ",), r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"),
    ("bearer-token", ("earer",), r"\b[Bb]earer\s{1,4}(?P<secret>[A-Za-z0-9._~+/=-]{16,})"),
    (
        "basic-auth",
        ("Basic ", "basic "),
        r"[Aa]uthorization\W{1,8}[Bb]asic (?P<secret>[A-Za-z0-9+/]{8,}={0,2})",
    ),
)
_PATTERNS = tuple((kind, signs, re.compile(pattern)) for kind, signs, pattern in _SHAPES)
_RARE = "JK_9zG-:/xBASp "  # letters and marks, the rarer in prose the earlier
_SIGNS: dict[str, list[str]] = {}
"""Signs by their rarest character: a search for one character takes a tenth of one for a literal."""
for _, _signs, _ in _SHAPES:
    for _sign in _signs:
        _SIGNS.setdefault(next(c for c in _RARE + _sign if c in _sign), []).append(_sign)

_NAMES = ("passw", "passphrase", "pwd", "secret", "token")
_KEYS = tuple(f"{of}{mark}key" for of in ("api", "access", "account", "private") for mark in ("", "_", "-"))
_NAMED = re.compile(
    r"""
    (?P<name> (?:passw(?:or)?d|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|account[_-]?key
      |private[_-]?key) (?:[_-](?:key|id))? )
    (?:\\?["'])? [ \t]{0,4} (?:=>|:=|[:=]|%3[AD]|\bis\b) [ \t]{0,4} (?P<quote>\\?["'])?
    (?P<secret> (?(quote) [^"'\\\s]{6,256} | [^\s"'\\,;&)<>\]}]{8,256} ) )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_NO_VALUE = re.compile(r"\[redacted:|env\b|os\.|None$|null$|true$|false$", re.IGNORECASE)

PLACEHOLDER = re.compile(
    r"\$(?:env:\w+|[A-Z][A-Z\d_]*|[a-z_]+|\d{1,2}|\([\w ./-]+\))|\$?\{\{?\ ?[\w.\[\]]+\ ?\}\}?|<[\w .|-]+>"
    r"|%\(\w+\)s|%\w+%"
)
"""What stands for a value that is filled in later, as a whole: `$NAME`, `${name}`, `<your key>`."""

SECRET_KEYS = re.compile(
    r"^(?:.*password|.*passwd|(?:.*[_.-])?(?:passphrase|pwd|(?:db|user|admin|root|login|smtp|ftp|ssh)[_-]?pass"
    r"|secret|secret[_-]?key|secret[_-]?access[_-]?key|client[_-]?secret|api[_-]?key|x-api-key"
    r"|access[_-]?token|refresh[_-]?token|auth[_-]?token|id[_-]?token|session[_-]?token|private[_-]?key|cvv"
    r"|proxy-authorization|authorization|set-cookie|cookie))$",
    re.IGNORECASE,
)
"""Names of fields and headers whose value is a secret whatever it looks like."""

NAMING_KEYS = re.compile(r"^(?:token|(?:.*[_.-])?(?:access|account)[_-]?key)$", re.IGNORECASE)
"""Names of fields whose value is a secret where it would be one in text, after the name and a colon."""

_NUMBER = re.compile(r"\d[\d -]{9,}\d")  # long enough for any of those below
_DIGITS = re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d-]|\.\d)")
_CARD = re.compile(r"4|5[1-5]|2[2-7]|3[47]|6(?:011|5)")
_IBAN = re.compile(  # it begins with a set of letters, not with `\b`: that is looked for four times as fast
    r"[A-Z][A-Z]\d\d(?<=\b[A-Z]{2}\d{2})(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"
)
_SSN = re.compile(r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")
_HEX = re.compile(r"(?<![A-Za-z0-9])[0-9a-f]{20,128}(?![A-Za-z0-9])")
_MOST_HEX = 129
_SHORTEST_TOKEN = 32
_TOKEN = re.compile(rf"[A-Za-z0-9+/_=-]{{{_SHORTEST_TOKEN},}}")
_MOST_TOKEN = 4096  # a longer run is data, such as an image
_BITS = 4.0  # bits per character of a random token of 32 characters; identifiers stay below
_CHANGES = 0.4  # share of neighbours of another class (upper, lower, digit, other); camel case has a third


def _is_signed(text: str) -> bool:
    """Whether the sign of a shape is in a text."""
    return any(any(map(text.__contains__, _SIGNS[c])) for c in _SIGNS if c in text)


def _is_named(text: str) -> bool:
    """Whether a name is in a text: twenty searches for a literal take a tenth of one that ignores case."""
    plain = text.casefold().replace("\u0131", "i")  # small and capital letters as patterns take them
    return any(map(plain.__contains__, _NAMES)) or ("key" in plain and any(map(plain.__contains__, _KEYS)))


def _has_long_word(text: str) -> bool:
    return max(map(len, text.split()), default=0) >= _SHORTEST_TOKEN


def may_hold(text: str) -> bool:
    """Whether a text may hold a secret: a quick look that errs on the side of yes."""
    return (
        _is_signed(text)
        or (_is_named(text) and _NAMED.search(text) is not None)
        or any(next(_checked(text, *found.span()), None) for found in _NUMBER.finditer(text))
        or _IBAN.search(text) is not None
        or (_has_long_word(text) and next(_tokens(text), None) is not None)
    )


def find_secrets(text: str) -> list[Finding]:
    """Return the secrets of a text, in order and without overlap; what is found first by shape goes first."""
    found: list[Finding] = []
    for look in (_shapes, _named, _numbers, _tokens):
        for finding in look(text):
            if all(finding[1] <= start or finding[0] >= end for start, end, _ in found):
                found.append(finding)
    return sorted(found)


def _shapes(text: str) -> Iterator[Finding]:
    for kind, signs, pattern in _PATTERNS:
        if any(sign in text for sign in signs):
            group = "secret" if "secret" in pattern.groupindex else 0
            for match in pattern.finditer(text):
                yield *match.span(group), kind


def _named(text: str) -> Iterator[Finding]:
    """Yield values that a name such as `password` or `api_key` announces; words alone are no value."""
    if not _is_named(text):
        return
    for match in _NAMED.finditer(text):
        value = match["secret"]
        told = PLACEHOLDER.match(text, match.start("secret"))  # its closing bracket is no part of the value
        is_told = told is not None and told.end() >= match.end("secret")
        if is_told or _NO_VALUE.match(value) or not any(c.isdigit() for c in value):
            continue
        if any(c.isalpha() for c in value) or len(value) >= 12:
            name = match["name"].lower()
            yield *match.span("secret"), "password" if "pass" in name or "pwd" in name else "secret"


def _numbers(text: str) -> Iterator[Finding]:
    for found in _NUMBER.finditer(text):
        yield from _checked(text, *found.span())
    for match in _IBAN.finditer(text):
        if _is_iban(match.group().replace(" ", "")):
            yield *match.span(), "iban"


def _checked(text: str, start: int, end: int) -> Iterator[Finding]:
    """Yield card and social security numbers within a run of digits."""
    for match in _DIGITS.finditer(text, start, end):
        digits = [int(c) for c in match.group() if c.isdigit()]
        is_card = _CARD.match(match.group().replace(" ", "").replace("-", "")) and _luhn(digits)
        if is_card and not _is_in_hash(text, *match.span()):
            yield *match.span(), "card"
    for match in _SSN.finditer(text, start, end):
        yield *match.span(), "social-security-number"


def _is_in_hash(text: str, start: int, end: int) -> bool:
    """Whether digits are a part of a hash or of an id of ours: in 1 of 9,000 some check as a card does."""
    for match in _HEX.finditer(text, max(0, start - _MOST_HEX), end + _MOST_HEX):
        if match.start() <= start and end <= match.end():
            return not match.group().isdigit()
    return False


def _tokens(text: str) -> Iterator[Finding]:
    for match in _TOKEN.finditer(text):
        if _is_random(match.group()):
            yield *match.span(), "token"


def _luhn(digits: list[int]) -> bool:
    """Return whether the last digit checks the others (ISO/IEC 7812)."""
    doubled = [sum(divmod(2 * d, 10)) for d in digits[-2::-2]]
    return len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_iban(text: str) -> bool:
    """Return whether the check digits fit (ISO 13616, modulo 97)."""
    moved = text[4:] + text[:4]
    return 15 <= len(text) <= 34 and int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


def _class(c: str) -> int:
    return 0 if c.islower() else 1 if c.isupper() else 2 if c.isdigit() else 3


def _is_random(token: str) -> bool:
    """Whether a token mixes its characters as no identifier, path, hash or id does."""
    if len(token) > _MOST_TOKEN:
        return False
    classes = [_class(c) for c in token]
    if not {0, 1, 2} <= set(classes):
        return False
    changes = sum(a != b for a, b in pairwise(classes))
    if changes < _CHANGES * len(token):
        return False
    n = len(token)
    return -sum(k / n * math.log2(k / n) for k in Counter(token).values()) >= _BITS
