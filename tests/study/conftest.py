"""What tests of a study's command line share."""

import sys

import pytest

from tests.builders import (
    study_of,
    write_images,
)


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch):
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["studies/mine.py"])


@pytest.fixture
def refused(tmp_path, capsys):
    """Runs a study's command line, which must exit 2 and leave nothing below --results; gives what it printed."""

    def run(*args, algorithm="lwf", results=None, **settings):
        results = results or tmp_path / "out"
        before = sorted(results.rglob("*")) if results.is_dir() else []
        with pytest.raises(SystemExit) as stopped:
            study_of(algorithm, **settings).main([*args, "--results", str(results)])
        assert stopped.value.code == 2
        assert (sorted(results.rglob("*")) if results.is_dir() else []) == before
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return out + err

    return run


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """Six classes of five images."""
    monkeypatch.setenv("CLSEARCH_CACHE", str(tmp_path / "cache"))
    return write_images(tmp_path / "my pets")
