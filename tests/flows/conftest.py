import json
from pathlib import Path

import pytest


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    """Enough of a model folder to be taken for one before anything is loaded."""
    folder = tmp_path / "backbone"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    return folder
