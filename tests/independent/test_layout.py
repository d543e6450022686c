"""These programs share nothing with the library, and there are as many numbers as the front page says."""

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("path", sorted(HERE.glob("*.py")), ids=lambda path: path.stem)
def test_nothing_here_imports_the_library(path: Path) -> None:
    """Wherever in the file, by statement or by function."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            assert not any(alias.name.partition(".")[0] == "residual" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level or (node.module or "").partition(".")[0] != "residual"
        elif isinstance(node, ast.Call):
            assert not re.search(r"import_module|__import__|spec_from|run_path|run_module", ast.unparse(node.func))
