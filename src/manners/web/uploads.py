"""Files that people upload: prompts with answers, kept beside the app only while they are read."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from starlette.datastructures import UploadFile

from manners.errors import MannersError
from manners.feedback.importers.files import FORMATS
from manners.feedback.importers.rows import Reject
from manners.feedback.materials import Material, read_materials


def uploaded(upload: UploadFile) -> list[Material | Reject]:
    """The rows of an uploaded file. Of its name only the ending counts, and that has to be one of ours."""
    name = (upload.filename or "").lower()
    ending = next((e for e in sorted(FORMATS, key=len, reverse=True) if name.endswith(e)), None)
    if ending is None:
        raise MannersError(f"the file's name must end in {', '.join(FORMATS)}")
    handle, path = tempfile.mkstemp(suffix=ending)
    try:
        with os.fdopen(handle, "wb") as copy:
            while block := upload.file.read(1 << 20):
                copy.write(block)
        return list(read_materials(Path(path)))
    except MannersError as error:
        raise MannersError(str(error).replace(path, "the file")) from None
    finally:
        os.unlink(path)
