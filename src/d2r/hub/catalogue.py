"""The catalogue of networks: list them, add one from a file or a URL, fetch a known one.

An added network is stored in :func:`d2r.models.user_folder` as ``NAME.onnx``, completely or not at all, and beside it
``NAME.json`` with its origin. Partial downloads are in ``downloads/`` there, and continue where they stopped.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout

from d2r.features.hardnet import PATCH_DESCRIPTORS_FORMAT as PATCH_DESCRIPTORS
from d2r.features.hardnet import load_patch_network
from d2r.features.network import LOCAL_FEATURES_FORMAT as LOCAL_FEATURES
from d2r.features.network import load_feature_network
from d2r.hub.known import KNOWN
from d2r.models import MODELS_FOLDER, folders, model_names, user_folder
from d2r.models.onnx import ModelError, read_metadata
from d2r.regions.network import DETECTOR_FORMAT as DETECTOR
from d2r.regions.network import load_network
from d2r.support.download import TransferProgress, fetch
from d2r.support.files import display_path, file_sha256, own_folder, remove_own_folder, replacing

KINDS: Final[Mapping[str, str]] = {
    DETECTOR: "detector",
    LOCAL_FEATURES: "local features",
    PATCH_DESCRIPTORS: "patch descriptors",
}
"""Kind of a network by the format in its metadata."""

_LOAD: Final[Mapping[str, Callable[[Path], object]]] = {
    DETECTOR: load_network,
    LOCAL_FEATURES: load_feature_network,
    PATCH_DESCRIPTORS: load_patch_network,
}
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Record:
    """The record of an added network.

    Attributes:
        kind: one of the values of :data:`KINDS`.
        sha256: SHA-256 of the ONNX file, in hexadecimal.
        source: the path or URL of its source.
        source_sha256: SHA-256 of the source; different from ``sha256`` if the source was converted.
        verified: whether the source was checked against a known SHA-256.
        licence: as given, or as stated in the file; empty if neither.
        summary: a short description; empty if there is none.
    """

    kind: str
    sha256: str
    source: str
    source_sha256: str
    verified: bool
    licence: str
    summary: str


@dataclass(frozen=True)
class Model:
    """A network that can be used by name.

    Attributes:
        name: the name.
        path: path of its file.
        kind: one of the values of :data:`KINDS`, or "unknown".
        bytes: size of the file.
        sha256: SHA-256 of the file, in hexadecimal.
        licence: licence of its weights; empty if not stated.
        summary: the summary in its record, or the heading of its card, or the architecture.
        shipped: whether it is shipped with this package; otherwise it was added.
    """

    name: str
    path: Path
    kind: str
    bytes: int
    sha256: str
    licence: str
    summary: str
    shipped: bool


def list_models() -> list[Model]:
    """Return the shipped networks by name, followed by the added ones."""
    return [_describe(folder, name) for folder in folders() for name in model_names(folder)]


def add_model(
    source: str,
    *,
    name: str | None = None,
    sha256: str | None = None,
    licence: str = "",
    progress: TransferProgress | None = None,
    pause_s: float = 1.0,
) -> Model:
    """Add a network from a file or a URL, to use it by name.

    Args:
        source: path or URL (``http://`` or ``https://``) of an ONNX file.
        name: name of the network; None for the file's name without its suffix.
        sha256: SHA-256 that the file must have, in lower-case hexadecimal; None accepts any.
        licence: licence of the weights; empty for that stated in the file.
        progress: called with the progress of a download.
        pause_s: see :func:`d2r.support.download.fetch`.

    Raises:
        ModelError: the file is not in a format of this project or has a different checksum, the name is invalid or
            taken by another network, or another process is adding a network.
        d2r.support.download.DownloadError: the download fails.
        OSError: the folder cannot be written.
    """
    remote = _is_address(source)
    name = _checked_name(name or _stem(source, remote=remote), source)
    with _adding() as folder:
        if not remote:
            return _admit(Path(source), folder, name, source, sha256, licence)
        with _downloaded(folder, (source,), sha256, progress, pause_s) as arrived:
            return _admit(arrived, folder, name, source, sha256, licence)


def pull_model(name: str, *, progress: TransferProgress | None = None, pause_s: float = 1.0) -> Model:
    """Fetch a network of :data:`d2r.hub.known.KNOWN`, convert it and add it; does nothing if it was added before.

    Raises:
        ModelError: the name is not known, torch is not installed, or see :func:`add_model`.
        d2r.support.download.DownloadError: no URL gives the file, or its checksum is different.
        d2r.train.delf.convert.ConvertError: the file is not a checkpoint that can be converted.
    """
    if name not in KNOWN:
        raise ModelError(name, f"not a known model; there are: {', '.join(sorted(KNOWN))}")
    known, folder = KNOWN[name], user_folder()
    if name in model_names(folder):
        return _describe(folder, name)
    convert = _converter(name)
    with _adding() as folder, _downloaded(folder, known.urls, known.sha256, progress, pause_s) as checkpoint:
        converted = checkpoint.with_name(f"{checkpoint.name}.onnx")
        try:
            convert(checkpoint, converted, arch=known.arch)
            return _place(
                converted,
                folder,
                name,
                known.urls[0],
                file_sha256(checkpoint),
                verified=known.sha256 is not None,
                licence=known.licence,
                summary=known.summary,
            )
        finally:
            converted.unlink(missing_ok=True)


def read_record(path: Path) -> Record | None:
    """Return the record of the network in a file, or None if it is missing or unreadable."""
    try:
        return Record(**json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _describe(folder: Path, name: str) -> Model:
    path, card = folder / f"{name}.onnx", folder / f"{name}.md"
    sha256, record = file_sha256(path), read_record(path)
    if record is not None and record.sha256 == sha256:
        kind, licence, summary = record.kind, record.licence, record.summary
    else:
        about = _metadata(path)
        kind, licence = KINDS.get(about.get("d2r", ""), "unknown"), about.get("licence", "")
        lines = card.read_text(encoding="utf-8").splitlines() if card.exists() else []
        summary = next((line.lstrip("#").strip() for line in lines if line.startswith("#")), about.get("arch", ""))
    return Model(name, path, kind, path.stat().st_size, sha256, licence, summary, folder == MODELS_FOLDER)


def _metadata(path: Path) -> dict[str, str]:
    try:
        return read_metadata(path)
    except ModelError:  # list it anyway: using it reports the error
        return {}


def _admit(path: Path, folder: Path, name: str, source: str, sha256: str | None, licence: str) -> Model:
    """Add a file that needs no conversion."""
    try:
        found = file_sha256(path)
    except OSError as error:
        raise ModelError(str(path), f"cannot be read: {error.strerror or error}") from error
    if sha256 is not None and found != sha256:
        raise ModelError(source, f"its SHA-256 is {found}, but should be {sha256}")
    verified = sha256 is not None
    try:
        return _place(path, folder, name, source, found, verified=verified, licence=licence, summary="")
    except ModelError as error:  # name the source, not the temporary file of its download
        raise type(error)(source if error.name == str(path) else error.name, error.reason) from error


def _place(
    path: Path,
    folder: Path,
    name: str,
    source: str,
    source_sha256: str,
    *,
    verified: bool,
    licence: str,
    summary: str,
) -> Model:
    """Check a file, copy it into the folder and write its record."""
    about = read_metadata(path)
    format = about.get("d2r", "")
    if format not in KINDS:
        known = " or ".join(f"{name} ({kind})" for name, kind in KINDS.items())
        raise ModelError(str(path), f"not a model of this project: its metadata must say d2r = {known}")
    _LOAD[format](path)
    sha256, target = file_sha256(path), folder / f"{name}.onnx"
    if os.path.lexists(target) and not (target.is_file() and file_sha256(target) == sha256):
        raise ModelError(
            name,
            f"another model with this name was added before; give another --name, or remove {display_path(target)}",
        )
    beside = target.with_name(f"{name}.json")
    if os.path.lexists(beside) and read_record(target) is None:
        raise ModelError(
            name, f"{display_path(beside)} is not the record of a model; give another --name, or move that file"
        )
    record = Record(
        KINDS[format],
        sha256,
        source,
        source_sha256,
        verified,
        licence or about.get("licence", ""),
        summary or about["arch"],
    )
    if not target.exists():
        with replacing(target) as part:
            shutil.copyfile(path, part)
    with replacing(beside) as part:
        part.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
    return _describe(folder, name)


@contextmanager
def _adding() -> Iterator[Path]:
    """Yield the folder of added networks, locked against other processes."""
    folder = user_folder()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield folder
    except Timeout as error:
        raise ModelError(str(folder), "another process is adding a model; try again when it is done") from error


@contextmanager
def _downloaded(
    folder: Path, urls: tuple[str, ...], sha256: str | None, progress: TransferProgress | None, pause_s: float
) -> Iterator[Path]:
    """Yield the file downloaded from one of the URLs, and delete it at the end; resumes an interrupted download."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", _stem(urls[0], remote=True))[:60]
    own_folder(folder / "downloads")
    path = folder / "downloads" / f"{hashlib.sha256(urls[0].encode()).hexdigest()[:12]}-{readable}"
    try:
        fetch(urls, path, sha256=sha256, progress=progress, pause_s=pause_s)
        yield path
    finally:  # also if the file could not be used: the next download may be different
        path.unlink(missing_ok=True)
        remove_own_folder(path.parent, filled=False)


def _converter(name: str) -> Callable[..., Any]:
    try:
        return importlib.import_module("d2r.train.delf.convert").convert_checkpoint  # type: ignore[no-any-return]
    except ModuleNotFoundError as error:
        raise ModelError(
            name,
            f"a torch checkpoint that has to be converted, but {error.name} is not installed; install it with:"
            " pip install 'detect-to-retrieve[train]'",
        ) from error


def _is_address(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))


def _stem(source: str, *, remote: bool) -> str:
    return PurePosixPath(unquote(urlsplit(source).path)).stem if remote else Path(source).stem


def _checked_name(name: str, source: str) -> str:
    if not _NAME.fullmatch(name) or name.lower().endswith(".onnx"):
        raise ModelError(
            source, f"{name!r} is not a valid name: use letters, digits, '-', '_' and '.'; give another --name"
        )
    if name in model_names(MODELS_FOLDER):
        raise ModelError(source, f"a shipped model has the name {name}; give another --name")
    return name
