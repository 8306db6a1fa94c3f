"""Keys of cached builds: equal for equal parts, different for anything else."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.harness import content_hash


@given(st.lists(st.text(), max_size=5), st.lists(st.text(), max_size=5))
def test_two_keys_are_equal_exactly_when_their_parts_are(one: list[str], other: list[str]) -> None:
    assert (content_hash.of(*one) == content_hash.of(*other)) == (one == other)


def test_text_moving_from_one_part_to_the_next_changes_the_key() -> None:
    assert content_hash.of("ab", "c") != content_hash.of("a", "bc")


def _write(root: Path, files: dict[str, str]) -> list[Path]:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return [root / name for name in files]


def test_the_key_of_files_does_not_depend_on_where_they_lie_or_their_order(tmp_path: Path) -> None:
    files = {"a": "1", "b/c": "2"}
    here, there = tmp_path / "here", tmp_path / "there"
    one = content_hash.of_files(here, _write(here, files))
    assert one == content_hash.of_files(there, reversed(_write(there, files)))


def test_renaming_editing_or_making_executable_changes_the_key_of_files(tmp_path: Path) -> None:
    paths = _write(tmp_path, {"a": "1"})
    keys = [content_hash.of_files(tmp_path, paths)]
    paths[0].chmod(0o755)
    keys.append(content_hash.of_files(tmp_path, paths))
    paths[0].write_text("2")
    keys.append(content_hash.of_files(tmp_path, paths))
    renamed = paths[0].rename(tmp_path / "b")
    keys.append(content_hash.of_files(tmp_path, [renamed]))
    assert len(set(keys)) == 4


def test_a_link_that_leads_nowhere_has_a_key_and_its_target_counts(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    one = content_hash.of_files(tmp_path, [link])
    link.unlink()
    link.symlink_to("elsewhere")
    assert one != content_hash.of_files(tmp_path, [link])
