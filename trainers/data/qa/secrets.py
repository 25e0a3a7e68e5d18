"""Keys and passwords that a server gives back are never written down."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote, unquote, urlsplit


__all__ = ["Secrets", "without_password"]

HIDDEN = "[key]"
BEARER = re.compile(
    r"\b(bearer\s{1,9}|authorization\W{1,9}(?:bearer\s{1,9}|basic\s{1,9})?)[\w.~+/=-]{4,}", re.IGNORECASE
)
SHORT = 6  # a key of fewer characters is one only where it stands alone


class Secrets:
    """
    What must not be written down, and texts without it.

    Args:
        url (`str`): address of the server, maybe with a name and a password.
        api_key (`str`, *optional*): key of the server.

    Attributes:
        authorization (`str`, *optional*): the header that shows them to the server.
    """

    def __init__(self, url: str, api_key: str | None) -> None:
        parts = urlsplit(url)
        name, password = unquote(parts.username or ""), unquote(parts.password or "")
        basic = base64.b64encode(f"{name}:{password}".encode()).decode()
        in_address = parts.netloc.rpartition("@")[0]
        self.authorization = f"Bearer {api_key}" if api_key else f"Basic {basic}" if in_address else None
        secrets = {api_key, in_address, parts.password, password, basic if in_address else None}
        if not password:  # some servers take the key as the name
            secrets |= {parts.username, name}
        self._forms = sorted(_forms(filter(None, secrets)), key=len, reverse=True)

    def hide(self, text: str) -> str:
        """The text with `[key]` in the place of every secret, and of whatever is called a bearer token."""
        for form in self._forms:
            if len(form) >= SHORT:
                text = text.replace(form, HIDDEN)
            else:
                text = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", lambda _: HIDDEN, text)
        return BEARER.sub(rf"\1{HIDDEN}", text)

    def are_in(self, text: str) -> bool:
        """Whether a secret is in a text; one so short that it may be there by chance is not looked for."""
        return any(form in text for form in self._forms if len(form) >= SHORT)


def without_password(url: str) -> str:
    """The address as it may be shown: without what a key may be in."""
    url = url.partition("?")[0]
    before, at, after = url.rpartition("@")
    return f"{before[: before.find('//') + 2] if '//' in before else ''}{after}" if at else url


def _forms(secrets: Iterable[str]) -> set[str]:
    """A secret as it is, and as it stands in JSON and in addresses."""
    forms = set()
    for secret in secrets:
        forms |= {secret, json.dumps(secret)[1:-1], json.dumps(secret)[1:-1].replace("/", "\\/")}
        forms |= {quote(secret), quote(secret, safe="")}
    return forms
