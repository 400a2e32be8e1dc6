"""What tests of tables share."""
from pathlib import Path

import pytest
from toy_table import TABLE, TOOL


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "work.py").write_text(TOOL)
    (tmp_path / "sums.yaml").write_text(TABLE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path
