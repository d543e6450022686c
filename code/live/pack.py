"""Python for the reader's browser, assembled from pinned packages: Pyodide's core, numpy, einops.

numpy comes from conda's build for Emscripten, which is not a wheel; here it becomes one, without its tests, headers and
Fortran tools. A lock file of two entries is all that Pyodide then needs to find both packages on this site.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import zipfile
from importlib.metadata import distribution
from pathlib import Path

CORE = ["pyodide.mjs", "pyodide.asm.js", "pyodide.asm.wasm", "python_stdlib.zip"]
_LEFT_OUT = ("/tests/", "/f2py/", "/include/", "/testing/", "/doc/", "/_pyinstaller/", "/distutils/")
_TIME = (1980, 1, 1, 0, 0, 0)


def pack(node_modules: Path, target: Path) -> list[Path]:
    """Return the files of `assets/pyodide/`.

    Wheels and lock file are built in a folder below ``target``, named after a digest of what they are built from, and
    are built once. ``node_modules`` has the packages pyodide and @emscripten-forge/numpy.
    """
    core = node_modules / "pyodide"
    numpy = next((node_modules / "@emscripten-forge/numpy/pkg").glob("numpy-*.tar.gz"))
    key = digest(*(path.read_bytes() for path in (Path(__file__), core / "package.json", numpy)))[:16]
    folder = target / key
    lock = folder / "pyodide-lock.json"
    if not lock.exists():
        folder.mkdir(parents=True, exist_ok=True)
        wheels = {"numpy": _numpy_wheel(numpy, folder), "einops": _einops_wheel(folder)}
        packages = {name: _entry(name, path) for name, path in wheels.items()}
        info = json.loads((core / "pyodide-lock.json").read_bytes())["info"]
        lock.write_text(json.dumps({"info": info, "packages": packages}))  # last: all is complete
    return [*(core / name for name in CORE), *sorted(folder.iterdir())]


def digest(*parts: bytes) -> str:
    """Return the SHA-256 of the parts, in hexadecimal."""
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _numpy_wheel(archive: Path, folder: Path) -> Path:
    """Write conda's build of numpy as a wheel; return its path."""
    with tarfile.open(archive) as tar:
        members = [member for member in tar.getmembers() if member.isfile() and "site-packages/numpy" in member.name]
        files = {}
        for member in sorted(members, key=lambda member: member.name):
            short = member.name.partition("site-packages/")[2]
            wanted = short.endswith((".py", ".so", "METADATA")) or "LICENSE" in short
            extracted = tar.extractfile(member)
            if wanted and extracted and not any(part in f"/{short}" for part in _LEFT_OUT):
                files[short] = extracted.read()
    version = next(name for name in files if name.endswith("METADATA")).split("-")[1].removesuffix(".dist")
    return _wheel(folder / f"numpy-{version}-cp312-cp312-emscripten_3_1_58_wasm32.whl", files)


def _einops_wheel(folder: Path) -> Path:
    """Write the installed einops as a wheel; return its path."""
    einops = distribution("einops")
    wanted = [path for path in einops.files or [] if path.suffix == ".py" or path.name in ("METADATA", "LICENSE")]
    files = {str(path): Path(str(einops.locate_file(path))).read_bytes() for path in wanted}
    kept = {name: body for name, body in files.items() if not name.startswith("..") and "/tests/" not in name}
    return _wheel(folder / f"einops-{einops.version}-py3-none-any.whl", kept)


def _wheel(path: Path, files: dict[str, bytes]) -> Path:
    """Write files as a wheel, the same bytes each time; one of them is the METADATA."""
    info = next(name for name in files if name.endswith(".dist-info/METADATA")).rpartition("/")[0]
    tag = "-".join(path.stem.split("-")[-3:])
    files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: pack.py\nRoot-Is-Purelib: true\nTag: {tag}\n".encode()
    rows = []
    for name, body in files.items():
        checksum = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={checksum},{len(body)}")
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as wheel:
        for name, body in sorted(files.items()):
            entry = zipfile.ZipInfo(name, _TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            wheel.writestr(entry, body, compresslevel=9)
    path.write_bytes(buffer.getvalue())
    return path


def _entry(name: str, wheel: Path) -> dict[str, object]:
    """Return a package's entry in Pyodide's lock file."""
    return {
        "name": name,
        "version": wheel.name.split("-")[1],
        "file_name": wheel.name,
        "install_dir": "site",
        "sha256": digest(wheel.read_bytes()),
        "package_type": "package",
        "imports": [name],
        "depends": ["numpy"] if name == "einops" else [],
        "unvendored_tests": False,
    }
