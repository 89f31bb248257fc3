"""Folders that must be writable: created if need be, refused with the reason."""

from pathlib import Path

import pytest

from common.folders import FolderError, require_writable


def test_a_missing_folder_is_created_and_left_empty(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "results"
    require_writable(folder, "finished work")
    require_writable(folder, "finished work")
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_created_is_refused_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(FolderError) as caught:
        require_writable(file / "results", "finished work")
    assert str(caught.value) == (
        f"finished work cannot be stored in {file / 'results'}: Not a directory; choose another folder"
    )
    assert file.read_text() == "mine"
