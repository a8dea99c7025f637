"""The stylesheet, the script and the icon, read once: a request names one of them and never a path on the disk."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Asset:
    content: bytes
    type: str
    version: str


class Assets:
    """All files of the folder `static`. `url` carries the version, so that browsers may keep a file for good."""

    def __init__(self) -> None:
        folder = Path(__file__).with_name("static")
        self._files = {p.name: _asset(p) for p in sorted(folder.iterdir()) if p.suffix in _TYPES}

    def get(self, name: str) -> Asset | None:
        return self._files.get(name)

    def url(self, name: str) -> str:
        return f"/static/{name}?v={self._files[name].version}"


def _asset(path: Path) -> Asset:
    content = path.read_bytes()
    return Asset(content, _TYPES[path.suffix], hashlib.sha256(content).hexdigest()[:12])
