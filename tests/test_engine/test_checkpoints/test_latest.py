# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import shutil
from pathlib import Path

import pytest

from mmlapp.engine.checkpoints.latest import latest_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As a run leaves it."""
    folder = tmp_path / 'run'
    folder.mkdir()
    names = 'epoch_2', 'epoch_9', 'epoch_10', 'best_epoch_30', 'dense'
    for name in names:
        (folder / f'{name}.pth').touch()
    (folder / 'last_checkpoint').write_text(f'{folder}/epoch_9.pth')
    return folder


def test_the_note_is_believed(folder: Path) -> None:
    assert latest_checkpoint(folder) == f'{folder}/epoch_9.pth'
    (folder / 'last_checkpoint').write_text('s3://there/epoch_3.pth\n')
    assert latest_checkpoint(str(folder)) == 's3://there/epoch_3.pth'
    (folder / 'last_checkpoint').write_text('/elsewhere/iter_3.pth')
    assert latest_checkpoint(folder) == '/elsewhere/iter_3.pth'


@pytest.mark.parametrize('move', [shutil.copytree, shutil.move])
def test_a_copy_goes_on_from_its_own(
    folder: Path, capsys: pytest.CaptureFixture[str], move: object
) -> None:
    copy = folder.with_name('copy of it')
    move(folder, copy)  # type: ignore[operator]
    assert latest_checkpoint(copy) == f'{copy}/epoch_9.pth'
    assert 'its own epoch_9.pth is taken' in capsys.readouterr().out


def test_a_link_to_the_folder_is_no_other_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link = folder.with_name('link')
    link.symlink_to(folder)
    assert latest_checkpoint(link) == f'{folder}/epoch_9.pth'
    assert 'its own' not in capsys.readouterr().out


def test_without_a_note_the_newest_is_found(folder: Path) -> None:
    """As after a stop between the file and the note."""
    (folder / 'last_checkpoint').unlink()
    assert latest_checkpoint(folder) == f'{folder}/epoch_10.pth'


def test_there_may_be_none(tmp_path: Path) -> None:
    (tmp_path / 'dense.pth').touch()
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / 'not yet') is None
