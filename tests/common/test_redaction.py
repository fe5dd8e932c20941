"""Secrets of addresses, and control characters, in what is stored or shown."""

import pytest

from clsearch.common.redaction import clean_values, printable, redact, redact_address

ADDRESSES = [
    ("http://bob:secret@host:5000/path?q=secret", "http://host:5000/path?q=***"),
    ("https://bob:se@secret@host", "https://host"),
    ("http://secret@host:5000", "http://host:5000"),
    ("http://host:5000", "http://host:5000"),
    ("http://host/a#secret", "http://host/a#***"),
    ("http://host?secret&a=secret&b=c=secret", "http://host?***&a=***&b=***"),
    ("http://user%3Asecret%40host/a", "http://host/a"),
    ("http://[::1]:80/a?b=secret", "http://[::1]:80/a?b=***"),
    ("http://bob:secret", "http://***"),
    ("postgresql+psycopg2://bob:secret@host:5432/mlflow", "postgresql+psycopg2://host:5432/mlflow"),
    ("postgresql://bob:sec/secret@host/db", "postgresql://host/db"),
    ("postgresql://bob:12/secret@host/db", "postgresql://host/db"),
    ("postgresql://bob:a?secret@host/db", "postgresql://host/db"),
    ("postgresql://bob:a#secret@host/db", "postgresql://host/db"),
    ("s3://AKIA:ab/secret@bucket/folder", "s3://bucket/folder"),
    ("s3://bucket/me@home/folder", "s3://bucket/me@home/folder"),
    ("s3:/bob:secret@bucket/folder", "s3:/bucket/folder"),
    ("//bob:secret@host/a", "//host/a"),
    ("simplecache::s3://bob:secret@bucket/a", "simplecache::s3://bucket/a"),
    ("zip://a.zip::http://bob:secret@host/a?sig=secret", "zip://a.zip::http://host/a?sig=***"),
    ("sqlite:////tmp/a@b/mlflow.db", "sqlite:////tmp/a@b/mlflow.db"),
    ("sqlite:///runs.db?key=secret", "sqlite:///runs.db?key=***"),
    ("HTTP://bob:secret@HOST", "HTTP://HOST"),
]


@pytest.mark.parametrize(("address", "shown"), ADDRESSES)
def test_an_address_loses_user_password_query_values_and_fragment(address, shown):
    assert redact_address(address) == shown
    assert redact(f"got '{address}', not more") == f"got '{shown}', not more"
    assert redact_address(shown) == shown


@pytest.mark.parametrize("address", ["bob:secret@host:6379", "http:bob:secret@host", "http:\\\\bob:secret@host"])
def test_an_address_without_slashes_is_one_where_an_address_is_expected(address):
    assert "secret" not in redact_address(address)
    assert "bob" not in redact_address(address)


def test_texts_without_secrets_stay():
    for text in ("a//b", "/data/me@work/x", "folder:/data/me@work/x", "host:6379", "50 % of 3/4", "http%3A%2F%2Fhost"):
        assert redact(text) == text


@pytest.mark.parametrize(
    "said",
    [
        "no driver for http://u:qzx%20rd@h/p",
        "password 'qzx rd' of u is wrong",
        "qzx+rd",
        "at http%3A%2F%2Fu%3Aqzx%2520rd%40h",
        "(http://u:qzx%20rd@h/p?sig=ab%2Fxyz)",
        "token ab/xyz",
    ],
)
def test_a_librarys_error_loses_the_secrets_of_its_address_in_every_form(said):
    shown = redact(said, "http://u:qzx%20rd@h/p?sig=ab%2Fxyz")
    assert not any(secret in shown for secret in ("qzx", "xyz", " u "))


def test_an_encoded_address_in_a_text_of_another_is_found():
    assert redact("via http%3A%2F%2Fbob%3Asecret%40host%2Fa") == "via http://host/a"


def test_control_characters_are_written_as_escapes_and_line_breaks_stay():
    assert printable("a\x1b[31m\x07\x9b\u202e\udcff\u2028b\n\tc") == r"a\x1b[31m\x07\x9b\u202e\udcff\u2028b" + "\n\tc"
    assert printable("Grüße 你好 \u00a0🙂") == "Grüße 你好 \u00a0🙂"


def test_values_read_from_json_are_clean_at_every_depth():
    content = {"command": ["x", "http://bob:secret@h"], "n": [1, None], "deep": {"reason": "\x1b[2J"}}
    assert clean_values(content) == {"command": ["x", "http://h"], "n": [1, None], "deep": {"reason": r"\x1b[2J"}}
