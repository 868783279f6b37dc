from pathlib import Path

from tasks.engines.training.launch import SaveRecord, clear_unfinished, newest_save, publish_save


def write_save(saves: Path, step: int, world_size: int = 1) -> Path:
    folder = saves / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "weights").write_text(str(step))
    return publish_save(folder, SaveRecord(step, step * 1.5, world_size, ()))


def test_the_newest_complete_save_is_found_and_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 120):
        write_save(tmp_path, step)
    save = newest_save(tmp_path, world_size=1)
    assert save is not None
    assert (save.step, (tmp_path / save.name / "weights").read_text()) == (120, "120")
    assert [folder.name for folder in sorted(tmp_path.iterdir())] == ["step-00000010", "step-00000120"]


def test_a_torn_save_is_never_used_and_is_cleared(tmp_path: Path) -> None:
    whole = write_save(tmp_path, 5)
    (tmp_path / "checkpoint-9").mkdir()
    (tmp_path / "step-00000009").mkdir()
    save = newest_save(tmp_path, world_size=1)
    assert save is not None
    assert tmp_path / save.name == whole
    clear_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == [whole]


def test_a_save_of_another_world_size_is_passed_over(tmp_path: Path) -> None:
    write_save(tmp_path, 5, world_size=1)
    write_save(tmp_path, 9, world_size=2)
    save = newest_save(tmp_path, world_size=1)
    assert save is not None
    assert save.step == 5
    assert newest_save(tmp_path, world_size=4) is None


def test_saves_of_another_world_size_that_are_further_on_drop_no_new_one(tmp_path: Path) -> None:
    for step, world_size in ((900, 2), (950, 2), (5, 1)):
        write_save(tmp_path, step, world_size)
    save = newest_save(tmp_path, world_size=1)
    assert save is not None
    assert save.step == 5


def test_a_step_that_is_saved_again_replaces_the_earlier_save(tmp_path: Path) -> None:
    write_save(tmp_path, 5)
    write_save(tmp_path, 5)
    assert len(list(tmp_path.iterdir())) == 1


def test_an_attempt_without_saves_has_none(tmp_path: Path) -> None:
    clear_unfinished(tmp_path / "saves")
    assert newest_save(tmp_path / "saves", world_size=1) is None
