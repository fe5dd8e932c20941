"""What a hostile operator gives a study: refused with exit code 2 and a message, in five seconds, without a trace."""

import os
import re
import sys
import time

import pytest

from tests.builders import closed_port, study_of, write_images

pytestmark = pytest.mark.slow

SECONDS = 5.0
"""Processor time of a refusal."""

HUGE = "9" * 20
LONG = "a" * 300
MEMORY = r"must fit into .*memory"

REFUSED = [
    # words, field, what is said
    ("--seeds 99999999999999999999", "seeds", "must lie between"),
    ("--first-seed 99999999999999999999", "first_seed", "must lie between"),
    ("--first-seed 9223372036854775807 --seeds 2", "seeds", "the last seed must be at most"),
    ("--first-report-seed 99999999999999999999", "first_report_seed", "must lie between"),
    ("--sampler-seed 99999999999999999999", "sampler_seed", "must lie between"),
    ("--seeds 100000000", "seeds, hidden, batch_size, tasks", MEMORY),
    ("--seeds 100000000 --hidden 1 --yes", "seeds, hidden, batch_size, tasks", MEMORY),
    ("--report-seeds 1000000000", "report_seeds, hidden, batch_size, tasks", MEMORY),
    ("--sampler grid --grid-points 20000", "grid_points, seeds, tasks, epochs", MEMORY),
    ("--sampler grid --grid-points 99999999999999999999", "grid_points", "must lie between"),
    ("--trials 1000000000", "trials, seeds, tasks, epochs", MEMORY),
    ("--trials 1000000000 --yes", "trials, seeds, tasks, epochs", MEMORY),
    ("--epochs 1000000000", "trials, seeds, tasks, epochs", MEMORY),
    ("--iterations 1000000000000", "trials, epochs, iterations, tasks", "within a year, or go on with --yes"),
    ("--batch-size 1000000000", "batch_size", "must be at most"),
    ("--hidden 1000000000", "seeds, hidden, batch_size, tasks", MEMORY),
    ("--hidden 1000000000 1000000000", "seeds, hidden, batch_size, tasks", MEMORY),
    ("--cohort 1000000000", "cohort", "less than or equal to 10000"),
    ("--cohort 10000 --trials 10000 --seeds 10000", "seeds, hidden, batch_size, tasks, cohort", MEMORY),
    ("--benchmark permuted-digits --tasks 1000000000", "seeds, hidden, batch_size, tasks", MEMORY),
    ("--benchmark permuted-digits --tasks 99999999999999999999", "tasks", "must lie between"),
    ("--cpus-per-trial 1000000000", "cpus_per_trial", "at most what one node has"),
    ("--gpus-per-trial 1e300", "gpus_per_trial", "at most what one node has"),
    ("--max-concurrent 0", "max_concurrent", "greater than or equal to 1"),
    ("--learning-rate 1e400", "learning_rate", "finite"),
    ("--learning-rate nan", "learning_rate", "finite"),
    ("--learning-rate 1e-300", "learning_rate", "single precision"),
    ("--config PATH/deep.yml", "config", "has more than 20 levels"),
    ("--config PATH/deep_map.yml", "config", "has more than 20 levels"),
    ("--config PATH/large.yml", "config", "more than 100,000 bytes"),
    ("--config PATH/sparse.yml", "config", "more than 100,000 bytes"),
    ("--config PATH/laughs.yml", "config", "has aliases"),
    ("--config PATH/fifo", "config", "not a regular file"),
    ("--config /dev/zero", "config", "not a regular file"),
    ("--config PATH", "config", "Is a directory"),
    ("--config PATH/none.yml", "config", "No such file"),
    ("--config PATH/digits.yml", "config", "Exceeds the limit"),
    ("--config PATH/date.yml", "config", "month must be in"),
    ("--config PATH/bytes.yml", "config", "must be a YAML file"),
    ("--config PATH/tag.yml", "config", "could not determine a constructor"),
    ("--config PATH/password.yml", "config", "unexpected end of stream"),
    ("--config PATH/empty_mirror.yml", "mirror", "must not be empty"),
    ("--config https://host/x.yml", "config", "not an address"),
    ("--grouping /dev/zero", "grouping", "not a regular file"),
    ("--grouping PATH/fifo", "grouping", "not a regular file"),
    ("--grouping PATH/sparse.yml", "grouping", "more than 1,000,000 bytes"),
    ("--grouping PATH/quotes.txt", "grouping", "quoted as in CSV"),
    ("--mirror EMPTY", "mirror", "must not be empty"),
    ("--mirror=", "mirror", "must not be empty"),
    ("--results EMPTY", "results", "must not be empty"),
    ("--data-root EMPTY", "data_root", "must not be empty"),
    ("--tracking-uri EMPTY", "tracking_uri", "must not be empty"),
    ("--ray-address EMPTY", "ray_address", "must not be empty"),
    ("--name EMPTY", "name", "must not be empty"),
    ("--config EMPTY", "config", "must not be empty"),
    (f"--name {LONG}", "name", "at most 100 characters"),
    (f"--results {LONG}", "results", "File name too long"),
    (f"--results /{'a/' * 2500}", "results", "File name too long"),
    (f"--data-root {LONG}", "data_root", "File name too long"),
    ("--results PATH/loop/x", "results", "Too many levels of symbolic links"),
    ("--results s3://bucket/x", "results", "not an address"),
    ("--data-root https://host/x", "data_root", "not an address"),
    ("--results RED", "results", "no control characters"),
    ("--mirror RED", "mirror", "no control characters"),
    ("--results PATH/a?b", "results", "must not contain"),
    ("--mirror nowhere://x", "mirror", "must be writable"),
    ("--mirror PATH/out/mine", "mirror", "must lie outside"),
    ("--tracking-uri http://127.0.0.1:CLOSED", "tracking_uri", "refused"),
    ("--tracking-uri postgresql://127.0.0.1:CLOSED/x", "tracking_uri", "refused"),
    ("--tracking-uri ftp://host", "tracking_uri", "must begin with"),
    ("--ray-address 127.0.0.1:CLOSED", "ray_address", "must be a cluster that answers"),
    ("--ray-address ray://bob:secret@127.0.0.1", "ray_address", "must be auto, local or HOST:PORT"),
    (f"--benchmark {'x' * 100_000}", "benchmark", "must be one of"),
    (f"--objectives {'x' * 100_000}", "objectives", "must be metrics"),
    ("--benchmark folder:PATH/broken", "benchmark", "every image must be readable; got .* and 14 more"),
]


@pytest.fixture
def path(tmp_path):
    """A folder of hostile files."""
    files = {
        "deep.yml": "[" * 20_000,
        "deep_map.yml": "a: {" * 20_000,
        "large.yml": "# " + "x" * 200_000,
        "laughs.yml": "a: &a [x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n",
        "digits.yml": f"seeds: {'9' * 5000}\n",
        "date.yml": "seeds: 2024-99-99\n",
        "tag.yml": "seeds: !!python/object:os.system 3\n",
        "password.yml": 'tracking_uri: "http://bob:secret@host\n',
        "empty_mirror.yml": "mirror: ''\n",
        "quotes.txt": '"a, b\nc, d\n',
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "bytes.yml").write_bytes(b"\xff\xfe\xfd")
    with (tmp_path / "sparse.yml").open("wb") as file:
        file.truncate(100 * 10**6)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for image in write_images(tmp_path / "broken").rglob("*.png"):
        image.write_bytes(b"no image")
    return tmp_path


def test_there_are_at_least_sixty_of_them():
    assert len(REFUSED) >= 60


@pytest.mark.parametrize(("words", "field", "said"), REFUSED, ids=[words[:60] for words, *_ in REFUSED])
def test_it_is_refused_in_time_with_a_short_message_and_leaves_nothing(path, capsys, monkeypatch, words, field, said):
    monkeypatch.setenv("CLSEARCH_CACHE", str(path / "cache"))
    monkeypatch.setattr(sys, "argv", ["mine.py"])
    (path / "here").mkdir()
    monkeypatch.chdir(path / "here")
    before = sorted(path.rglob("*"))
    with closed_port() as port:
        given = words.replace("PATH", str(path)).replace("CLOSED", str(port)).split()
    given = [{"EMPTY": "", "RED": "a\x1b[31m"}.get(word, word) for word in given]
    own = [] if "--results" in given else ["--results", str(path / "out")]
    length = {"iterations": 1} if "--iterations" in words else {"epochs": 1}
    study = study_of(**length)
    began = time.process_time()
    with pytest.raises(SystemExit) as stopped:
        study.main([*given, *own])
    assert time.process_time() - began < SECONDS
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.match(rf"error: {field}: .*{said}", err), err
    assert len(err) < 4000
    assert "secret" not in err
    assert "\x1b" not in err
    assert [found for found in sorted(path.rglob("*")) if "cache" not in found.parts] == before
