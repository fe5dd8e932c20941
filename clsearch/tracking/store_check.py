"""Check before a study starts that a tracking server answers, or that a store can be opened."""

from __future__ import annotations

import base64
import http.client
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from clsearch.common.deadline import PROBE_SECONDS, call_within
from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.redaction import redact, redact_address

STORES = {"sqlite": 0, "postgresql": 5432, "mysql": 3306, "mssql": 1433, "databricks": 0, "databricks-uc": 0}
"""Schemes of stores that MLflow opens itself -> default port of the database server; 0 if there is no server to probe.
"""


def check_tracking(uri: str | None) -> None:
    """Check that MLflow knows the store and that its server answers.

    It sends one request of its own, because MLflow's would block for minutes. Raises ConfigError.
    """
    if uri is None:
        return
    scheme = uri.partition("://")[0].partition("+")[0] if "://" in uri else uri.partition(":")[0]
    shown = redact_address(uri)
    if scheme in STORES:
        if reason := _within_deadline(_unusable, uri, scheme):
            text = f"tracking_uri: must be a store that can be opened; got {shown} ({reason})"
            raise ConfigError([Refusal("tracking-opens", text)])
        return
    if scheme not in ("http", "https"):
        text = f"tracking_uri: must begin with http://, https:// or one of {', '.join(STORES)}; got {shown}"
        raise ConfigError([Refusal("tracking-scheme", text)])
    if reason := _within_deadline(_unanswered, uri):
        text = f"tracking_uri: must be an MLflow server that answers /health; got {shown} ({reason})"
        raise ConfigError([Refusal("tracking-answers", text)])


def _within_deadline(probe: Callable[..., str], *arguments: str) -> str:
    """Return what a probe finds; late, it finds that nothing answers."""
    try:
        return call_within(PROBE_SECONDS, probe, *arguments)
    except TimeoutError:
        return f"no answer in {PROBE_SECONDS:g} s"


def _unusable(uri: str, scheme: str) -> str:
    """Explain why a database cannot be opened; "" if no problem is known."""
    try:
        if scheme == "sqlite" and (path := uri.partition(":///")[2]):
            folder = Path(path).absolute().parent
            return "" if os.access(folder, os.W_OK) else f"no folder {folder} that can be written"
        if STORES[scheme]:
            parts = urlsplit(uri)
            address = (parts.hostname or "localhost", parts.port or STORES[scheme])
            with socket.create_connection(address, timeout=PROBE_SECONDS) as connection:
                return "" if _greets(connection, scheme) else f"something else than {scheme} answers"
    except TimeoutError:
        raise
    except (OSError, ValueError) as error:
        return redact(str(error), uri) if isinstance(error, OSError) else type(error).__name__
    return ""


def _greets(connection: socket.socket, scheme: str) -> bool:
    """Return True if the server at a connection begins to speak the protocol of its scheme.

    A server that only accepts connections would block MLflow for minutes.
    """
    asked, length, last = GREETINGS[scheme]
    connection.sendall(asked)
    answer = b""
    while len(answer) < length and (part := connection.recv(length - len(answer))):
        answer += part
    return answer[length - 1 :] in last


def _unanswered(uri: str) -> str:
    """Explain why the server at a URI does not answer as MLflow does, without the URI; "" if it does."""
    try:
        parts = urlsplit(uri)
        server = parts.netloc.rpartition("@")[2]
        request = urllib.request.Request(
            parts._replace(netloc=server, path=parts.path.rstrip("/") + "/health").geturl()
        )
        if credentials := _credentials(parts):
            request.add_header("Authorization", credentials)
        with urllib.request.urlopen(request, timeout=PROBE_SECONDS) as answer:
            if answer.read(16).strip() == b"OK":
                return ""
            return "something else answers"
    except urllib.error.HTTPError as error:
        return f"status {error.code}"
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise error.reason from None
        return redact(str(error.reason), uri)
    except TimeoutError:
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:
        return type(error).__name__


def _credentials(parts: SplitResult) -> str | None:
    """Return the Authorization header that MLflow would send, from the URI or the environment."""
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if parts.username is not None:
        user, password = unquote(parts.username), unquote(parts.password or "")
    if user and password is not None:
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return f"Bearer {token}" if token else None


GREETINGS = {
    "postgresql": (bytes.fromhex("0000000804d2162f"), 1, (b"S", b"N", b"E")),  # SSLRequest: yes, no, or an error
    "mysql": (b"", 5, (b"\x0a", b"\xff")),  # the server speaks first: a packet's head, then its version or an error
    "mssql": (bytes.fromhex("1201001a0000000000000b00060100110001ff00000000000002"), 1, (b"\x04",)),  # PRELOGIN
}
"""Scheme -> the first message of a client; the bytes to read of the answer, and what the last of them can be."""
