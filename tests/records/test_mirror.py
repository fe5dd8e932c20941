"""The copy of a study's folder: complete, kept up to date, and never a reason for a study to end."""

import os
import threading
from pathlib import Path

import fsspec
import pytest

from clsearch.common.errors import ConfigError
from clsearch.records.mirror import Mirror, check_mirror, copy_changes


def written(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return written(tmp_path / "results" / "mine", best="{}", trials__one__record="1", trials__one__state="s")


@pytest.fixture
def warned() -> list[str]:
    return []


@pytest.mark.parametrize("form", ["{}", "file://{}", "{}/"])
def test_all_files_are_copied_into_a_folder_of_the_studys_name(tmp_path, study, form) -> None:
    copy_changes(study, form.format(tmp_path / "bucket"), {})
    assert contents(tmp_path / "bucket") == {f"mine/{name}": text for name, text in contents(study).items()}


def test_another_store_than_a_disk_takes_them_as_well(study) -> None:
    store = fsspec.filesystem("memory")
    copy_changes(study, "memory://bucket/path", {})
    assert store.cat_file("/bucket/path/mine/trials/one/record") == b"1"


def test_rays_own_folder_and_files_half_written_are_left_out(tmp_path, study) -> None:
    written(study, ray__trial__big="x", **{".record.0123456789abcdef.tmp": "half", "trials__ray": "kept"})
    copy_changes(study, str(tmp_path / "bucket"), {})
    names = set(contents(tmp_path / "bucket" / "mine"))
    assert names == {"best", "trials/one/record", "trials/one/state", "trials/ray"}


def test_only_what_changed_is_copied_again_and_what_is_gone_is_removed(tmp_path, study) -> None:
    copy = tmp_path / "bucket" / "mine"
    sent = copy_changes(study, str(tmp_path / "bucket"), {})
    (copy / "best").write_text("touched by nobody")
    written(study, trials__one__record="2, longer")
    (study / "trials" / "one" / "state").unlink()
    again = copy_changes(study, str(tmp_path / "bucket"), sent)
    assert contents(copy) == {"best": "touched by nobody", "trials/one/record": "2, longer"}
    assert again.keys() == {study / "best", study / "trials" / "one" / "record"}


def test_what_others_have_there_stays(tmp_path, study) -> None:
    written(tmp_path / "bucket", mine__notes="mine", other__best="theirs")
    copy_changes(study, str(tmp_path / "bucket"), copy_changes(study, str(tmp_path / "bucket"), {}))
    assert contents(tmp_path / "bucket").items() >= {"mine/notes": "mine", "other/best": "theirs"}.items()


@pytest.mark.parametrize(("found", "expected"), [("old", "mine.1"), ("new", "mine")])
def test_the_copy_of_a_study_that_was_started_over_is_moved_aside(tmp_path, study, warned, found, expected) -> None:
    written(study, **{"study.json": '{"id": "new"}'})
    bucket = written(
        tmp_path / "bucket", **{"mine__study.json": f'{{"id": "{found}"}}', "mine__trials__nine__record": "9"}
    )
    mirror = Mirror(study, str(bucket), warned.append)
    mirror.end()
    assert (bucket / expected / "trials" / "nine" / "record").read_text() == "9"
    assert contents(bucket / "mine").items() >= contents(study).items()
    assert len(contents(bucket)) == len(contents(study)) + (2 if found == "old" else 1)
    assert warned == []


def test_at_the_end_everything_is_there(tmp_path, study, warned) -> None:
    mirror = Mirror(study, str(tmp_path / "bucket"), warned.append)
    for n in range(50):
        written(study, **{f"trials__{n}__record": str(n)})
        mirror.update()
    mirror.end()
    assert contents(tmp_path / "bucket" / "mine") == contents(study)
    assert warned == []
    assert not mirror.thread.is_alive()


def test_a_store_that_refuses_is_told_of_once_and_tried_again(tmp_path, study, warned) -> None:
    (tmp_path / "bucket").write_text("a file where the folder should be")
    tried = threading.Event()
    mirror = Mirror(study, str(tmp_path / "bucket"), lambda text: (warned.append(text), tried.set()))
    mirror.update()
    assert tried.wait(30)
    mirror.update()
    os.remove(tmp_path / "bucket")
    mirror.end()
    assert contents(tmp_path / "bucket" / "mine") == contents(study)
    (warning,) = warned
    assert "the study continues" in warning


def test_what_could_not_be_copied_at_the_end_is_said_without_passwords(study, warned) -> None:
    mirror = Mirror(study, "ftp://bob:secret@127.0.0.1:1/there", warned.append)
    mirror.end()
    assert len(warned) == 2
    assert warned[1].startswith("The copy in ftp://")
    assert "is incomplete; " in warned[1]
    assert "secret" not in "".join(warned)


def test_without_a_place_nothing_happens(study, warned) -> None:
    mirror = Mirror(study, None, warned.append)
    mirror.update()
    mirror.end()
    assert not mirror.thread.is_alive()


def refusal(folder: Path, uri: str) -> str:
    with pytest.raises(ConfigError) as refused:
        check_mirror(folder, uri)
    (problem,) = refused.value.problems
    return problem


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path, study) -> None:
    check_mirror(study, None)
    check_mirror(study, str(tmp_path / "bucket"))
    assert contents(tmp_path / "bucket") == {}


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("nowhere://bucket", "Protocol not known"),
        ("s3://bucket/path", "s3fs"),
        ("ftp://bob:secret@127.0.0.1:1/there", "refused"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused(study, uri, reason) -> None:
    problem = refusal(study, uri)
    assert problem.startswith("mirror: must be writable; got ")
    assert reason in problem
    assert "secret" not in problem


def test_a_file_is_no_place(tmp_path, study) -> None:
    (tmp_path / "file").touch()
    assert refusal(study, str(tmp_path / "file")).startswith("mirror: must be writable; got ")


@pytest.mark.parametrize("below", [".", "mine", "mine/copy"])
def test_the_studys_own_folder_is_no_place(study, below) -> None:
    problem = refusal(study, str(study.parent / below))
    assert problem.startswith("mirror: must lie outside the study's own folder; got ")
