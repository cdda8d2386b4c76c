"""Fetch Revisited Oxford and Paris, and the million distractors, from their authors' public addresses.

The layout of a data set is ``folder/name/jpg/`` with its ground truth, ``gnd_name.pkl``, beside it (for the distractors
``revisitop1m.txt``, the list of pictures). Downloads in progress are in ``folder/name/downloads/``, which is removed at
the end. An existing picture or ground truth is never overwritten.

Nothing gets its final name before it is complete: a file is fetched as ``.part`` and renamed, and the pictures of an
archive are moved into place once all of it is unpacked and its checksum is right.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from filelock import FileLock, Timeout

from d2r.datasets.revisited import GroundTruthError, find_ground_truth, read_ground_truth
from d2r.images import SUFFIXES
from d2r.support.download import _CHUNK, DownloadError, TransferProgress, fetch
from d2r.support.files import OutputError, check_no_index, move_new, own_folder, remove_own_folder, sync

BASE_URLS: Final[Mapping[str, Sequence[str]]] = {
    # since 2022 the pictures are published with blurred faces, as "-v1"; the first archives no longer exist
    "oxford": (
        "https://www.robots.ox.ac.uk/~vgg/data/oxbuildings",
        "https://thor.robots.ox.ac.uk/datasets/oxford-buildings",
    ),
    "paris": (
        "https://www.robots.ox.ac.uk/~vgg/data/parisbuildings",
        "https://thor.robots.ox.ac.uk/datasets/paris-buildings",
    ),
    "ground truth": (
        "https://cmp.felk.cvut.cz/revisitop/data/datasets",
        "http://cmp.felk.cvut.cz/revisitop/data/datasets",
    ),
    "distractors": ("http://ptak.felk.cvut.cz/revisitop/revisitop1m",),
}
"""Addresses of the files: for each source those to try in turn, without a slash at the end."""


@dataclass(frozen=True)
class _Dataset:
    """The files of a data set: each is a key of the addresses and a path below the address."""

    listing: tuple[str, str]  # the ground truth, or the list of pictures
    archives: tuple[tuple[str, str], ...]


_DATASETS: Final[Mapping[str, _Dataset]] = {
    "roxford5k": _Dataset(
        listing=("ground truth", "roxford5k/gnd_roxford5k.pkl"),
        archives=(("oxford", "oxbuild_images-v1.tgz"),),
    ),
    "rparis6k": _Dataset(
        listing=("ground truth", "rparis6k/gnd_rparis6k.pkl"),
        archives=(("paris", "paris_1-v1.tgz"), ("paris", "paris_2-v1.tgz")),
    ),
    "r1m": _Dataset(
        listing=("distractors", "revisitop1m.txt"),
        archives=tuple(("distractors", f"jpg/revisitop1m.{part}.tar.gz") for part in range(1, 101)),
    ),
}

NAMES: Final = tuple(_DATASETS)
"""The data sets that :func:`get_dataset` knows."""


def get_dataset(
    name: str,
    folder: Path,
    *,
    base_urls: Mapping[str, Sequence[str]] = BASE_URLS,
    progress: TransferProgress | None = None,
    tries: int = 6,
    pause_s: float = 1.0,
) -> Path:
    """Fetch a data set, or what is missing of it.

    Only pictures that the ground truth names are kept: Oxford's 5,063, and Paris's 6,412 without the 20
    broken ones that its authors list. A ground truth already in the folder, in any format, is used unchanged.

    Args:
        name: one of :data:`NAMES`: "roxford5k", "rparis6k" or "r1m".
        folder: folder of data sets; this one goes to the folder ``name`` in it.
        base_urls: addresses of each source, as in :data:`BASE_URLS`.
        progress: called with the progress of a transfer.
        tries: see :func:`fetch`.
        pause_s: see :func:`fetch`.

    Returns:
        The data set's folder.

    Raises:
        DownloadError: the data set is unknown; a file cannot be fetched, or is damaged or unsafe; the
            archives lack pictures that the ground truth names; the folder cannot be written to, or another
            process is fetching into it.
        d2r.support.files.OutputError: the folder has a ``downloads`` that d2r did not make, or is in an index.
    """
    if name not in _DATASETS:
        raise DownloadError(name, f"no such data set; there are {', '.join(NAMES)}")
    dataset, root = _DATASETS[name], folder / name
    downloads = root / "downloads"

    def bring(source: tuple[str, str]) -> Path:
        key, below = source
        path = downloads / PurePosixPath(below).name
        urls = [f"{base}/{below}" for base in base_urls[key]]
        fetch(urls, path, progress=progress, tries=tries, pause_s=pause_s)
        return path

    check_no_index(root)
    listing = find_ground_truth(root) or root / PurePosixPath(dataset.listing[1]).name
    try:
        if not listing.exists() or _missing(root, _listed_pictures(listing)):
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f".{name}.lock", timeout=0):
                own_folder(downloads)
                if not listing.exists():
                    _admit_listing(bring(dataset.listing), listing)
                _fill(root, dataset.archives, _listed_pictures(listing), bring)
        remove_own_folder(downloads)
    except OutputError:
        raise
    except Timeout as error:
        raise DownloadError(str(root), "another process is fetching it") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise DownloadError(str(error.filename or root), f"cannot be read or written: {reason}") from error
    return root


def _admit_listing(arrived: Path, listing: Path) -> None:
    """Move a fetched list to its place if it is valid; a server's error page is not."""
    try:
        _listed_pictures(arrived)
    except DownloadError:
        arrived.unlink()
        raise
    move_new(arrived, listing)


def _listed_pictures(listing: Path) -> frozenset[str]:
    """Return the pictures of a data set, as paths below ``jpg/`` with forward slashes."""
    if listing.suffix != ".txt":
        try:
            truth = read_ground_truth(listing)
        except GroundTruthError as error:
            raise DownloadError(error.name, error.reason) from error
        return frozenset(f"{picture}.jpg" for picture in truth.images + truth.queries)
    names = listing.read_text("utf-8", "surrogateescape").split("\n")
    pictures = frozenset(stripped for name in names if (stripped := name.strip()))
    for picture in pictures:
        path = PurePosixPath(picture)
        if path.suffix.lower() not in SUFFIXES or path.is_absolute() or ".." in path.parts or "\0" in picture:
            raise DownloadError(str(listing), f"{picture[:80]!r} is not the name of a picture")
    if not pictures:
        raise DownloadError(str(listing), "it names no picture")
    return pictures


def _missing(root: Path, pictures: Collection[str]) -> list[str]:
    return sorted(picture for picture in pictures if not (root / "jpg" / picture).is_file())


def _fill(
    root: Path,
    archives: Sequence[tuple[str, str]],
    pictures: frozenset[str],
    bring: Callable[[tuple[str, str]], Path],
) -> None:
    """Fetch and unpack the archives not yet unpacked, one at a time, so that only one is on disk."""

    def mark(archive: tuple[str, str]) -> Path:
        return root / "downloads" / f"{PurePosixPath(archive[1]).name}.done"

    if all(mark(archive).exists() for archive in archives):
        for archive in archives:  # pictures were deleted after they had been unpacked
            mark(archive).unlink()
    for archive in archives:
        if not mark(archive).exists():
            path = bring(archive)
            _unpack(path, root / "jpg", pictures)
            mark(archive).touch()
            path.unlink()
    if lacking := _missing(root, pictures):
        share = f"{len(lacking):,} of {len(pictures):,} pictures"
        raise DownloadError(str(root), f"the archives lack {share}, for example {lacking[0]}")


def _unpack(archive: Path, folder: Path, pictures: frozenset[str]) -> None:
    """Unpack the pictures of an archive that a data set names; once all are unpacked, move them to ``folder``.

    An existing picture stays.

    Raises:
        DownloadError: the archive is damaged, or has a path outside the folder. The archive is removed.
    """
    staging = archive.parent / "unpacked"
    shutil.rmtree(staging, ignore_errors=True)
    unpacked: set[str] = set()
    try:
        with gzip.open(archive) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    name = _picture_name(tarfile.data_filter(member, str(staging)), pictures)
                    source = tar.extractfile(member) if name else None
                    if name and source:
                        target = staging / name
                        target.parent.mkdir(parents=True, exist_ok=True)
                        with target.open("wb") as file:
                            shutil.copyfileobj(source, file)
                        sync(target)
                        unpacked.add(name)
            while stream.read(_CHUNK):  # the checksum is at the end, and tarfile stops before it
                pass
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        archive.unlink()
        raise DownloadError(str(archive), f"damaged or unsafe ({error}), and removed; run again to fetch it") from error
    for name in unpacked:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(folder / name):  # an existing picture may be better, without blurred faces
            (staging / name).rename(folder / name)
    for parent in {(folder / name).parent for name in unpacked}:
        sync(parent)
    shutil.rmtree(staging, ignore_errors=True)


def _picture_name(member: tarfile.TarInfo, pictures: frozenset[str]) -> str | None:
    """Return the name that a file in an archive has in the data set, or None.

    Names of distractors include their folders. Those of Oxford and Paris do not, whatever folder they are packed in.
    """
    path = PurePosixPath(member.name)
    return next((name for name in (str(path), path.name) if member.isreg() and name in pictures), None)
