"""Names and sizes of checkpoint files, and tensors that are refused before they are used."""

from pathlib import Path

import pytest
import torch

import models
from models import CheckpointError


@pytest.mark.parametrize("name", ["a.pth", "a.b.safetensors", "a.pt2"])
def test_the_names_of_checkpoints_are_accepted(name: str) -> None:
    models.require_suffix(name)


def test_other_names_are_refused_with_the_suffixes() -> None:
    with pytest.raises(CheckpointError, match=r"must end in one of \.safetensors, .*\.pt2, got 'a\.exe'$"):
        models.require_suffix("a.exe")
    with pytest.raises(CheckpointError, match=r"^a\.onnx: ONNX files cannot be read\. Save .*state_dict.*\.pt2 file$"):
        models.require_suffix("a.onnx")


def test_a_file_above_the_limit_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(b"no checkpoint" * 10)
    monkeypatch.setattr("models.state_dicts.MAX_CHECKPOINT_BYTES", 129)
    with pytest.raises(CheckpointError, match=r"a\.pth has 130 bytes, at most 129 are allowed"):
        models.read_state_dict(path)


def test_tensors_that_share_one_storage_count_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file can describe many large tensors that share their elements."""
    shared = torch.zeros(1_000)
    path = tmp_path / "a.pth"
    torch.save({f"layer{index}.weight": shared for index in range(100)}, path)
    limit = 2 * path.stat().st_size
    assert limit < 100 * shared.nbytes
    monkeypatch.setattr("models.state_dicts.MAX_CHECKPOINT_BYTES", limit)
    with pytest.raises(CheckpointError, match=f"describes tensors of 400000 bytes, at most {limit} are allowed"):
        models.read_state_dict(path)


@pytest.mark.parametrize("tensor", [torch.zeros(2, dtype=torch.complex64), torch.zeros(2, device="meta")], ids=str)
def test_tensors_that_are_not_plain_are_refused(tensor: torch.Tensor, tmp_path: Path) -> None:
    torch.save({"fc.weight": tensor}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: fc\.weight is not a plain tensor"):
        models.read_state_dict(tmp_path / "a.pth")
