"""Secrets that nobody has: as many as wanted, in twenty formats, the same for the same seed."""

from __future__ import annotations

import base64
import random
import string
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["FORMATS", "SeededSecret", "seeded_secrets"]

_ALNUM = string.ascii_letters + string.digits
_URL = _ALNUM + "-_"


class SeededSecret(NamedTuple):
    """A made-up secret as it is met in the wild."""

    format: str
    """Name of its format."""
    text: str
    """The secret with what is around it, such as `Authorization: Bearer ...`."""
    secret: str
    """What must not be stored anywhere."""


def seeded_secrets(n_each: int, seed: int = 0) -> list[SeededSecret]:
    """Return `n_each` secrets of every format, in the order of `FORMATS`; all of them differ."""
    dice = random.Random(seed)
    return [SeededSecret(name, *make(dice)) for name, make in sorted(FORMATS.items()) for _ in range(n_each)]


Made = tuple[str, str]  # (text, secret)


def _random(dice: random.Random, letters: str, n: int) -> str:
    """Return characters with a digit and letters of both cases among them, as key generators give."""
    while True:
        made = "".join(dice.choices(letters, k=n))
        kinds = {"u" if c.isupper() else "l" if c.islower() else "d" for c in made if c.isalnum()}
        if n < 16 or len(kinds) == 3 or letters.islower() or letters.isupper():
            return made


def _plain(prefix: str, letters: str, n: int) -> Callable[[random.Random], Made]:
    def make(dice: random.Random) -> Made:
        secret = prefix + _random(dice, letters, n)
        return secret, secret

    return make


def _around(before: str, letters: str, n: int, after: str = "") -> Callable[[random.Random], Made]:
    def make(dice: random.Random) -> Made:
        secret = _random(dice, letters, n)
        return f"{before}{secret}{after}", secret

    return make


def _jwt(dice: random.Random) -> Made:
    parts = [base64.urlsafe_b64encode(f'{{"a":"{_random(dice, _ALNUM, 9)}"}}'.encode()).decode().rstrip("=")
             for _ in range(2)]  # fmt: skip
    secret = ".".join([*parts, _random(dice, _URL, 32)])
    return secret, secret


def _basic(dice: random.Random) -> Made:
    secret = base64.b64encode(f"user:{_random(dice, _ALNUM, 16)}".encode()).decode()
    return f"Authorization: Basic {secret}", secret


def _pem(dice: random.Random) -> Made:
    secret = _random(dice, _ALNUM + "+/", 64)
    return f"-----BEGIN RSA PRIVATE KEY-----\n{secret}\n-----END RSA PRIVATE KEY-----", secret


def _password(dice: random.Random) -> Made:
    secret = f"{_random(dice, string.ascii_lowercase, 7)}{dice.randint(10, 99)}!{dice.randint(100, 999)}"
    return f"the password is {secret}", secret


def _assigned(dice: random.Random) -> Made:
    secret = _random(dice, "0123456789abcdef", 32)
    return f'{{"api_key": "{secret}", "region": "eu"}}', secret


def _card(dice: random.Random) -> Made:
    digits = [4, *(dice.randint(0, 9) for _ in range(14))]
    total = sum(sum(divmod(2 * d, 10)) if at % 2 == 0 else d for at, d in enumerate(digits))
    whole = "".join(map(str, [*digits, -total % 10]))
    secret = " ".join(whole[at : at + 4] for at in range(0, 16, 4)) if dice.random() < 0.5 else whole
    return f"charge card {secret} please", secret


def _iban(dice: random.Random) -> Made:
    account = "".join(str(dice.randint(0, 9)) for _ in range(18))
    check = 98 - int(f"{account}131400") % 97  # DE00, as digits
    secret = f"DE{check:02d}{account}"
    return f"send it to {secret}.", secret


def _ssn(dice: random.Random) -> Made:
    secret = f"{dice.randint(100, 665)}-{dice.randint(10, 99)}-{dice.randint(1000, 9999)}"
    return f"SSN {secret}", secret


FORMATS: dict[str, Callable[[random.Random], Made]] = {
    "api-key": _plain("sk-", _ALNUM, 40),
    "aws-key": _plain("AKIA", string.ascii_uppercase + string.digits, 16),
    "aws-secret": _around("aws_secret_access_key = ", _ALNUM + "+/", 40),
    "basic-auth": _basic,
    "bearer": _around("Authorization: Bearer ", _URL, 40),
    "card": _card,
    "github": _plain("ghp_", _ALNUM, 36),
    "gitlab": _plain("glpat-", _URL, 20),
    "google-key": _plain("AIza", _URL, 35),
    "hub": _plain("hf_", _ALNUM, 34),
    "iban": _iban,
    "jwt": _jwt,
    "named-key": _assigned,
    "password": _password,
    "private-key": _pem,
    "slack": _plain("xoxb-", _ALNUM, 24),
    "social-security-number": _ssn,
    "stripe": _plain("sk_live_", _ALNUM, 24),
    "token": _plain("", _ALNUM, 44),
    "url-password": _around("postgresql://ada:", _ALNUM, 20, "@db.example.org/shop"),
}
"""How a secret of each format is made."""
