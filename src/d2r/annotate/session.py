"""The pictures to annotate, the decisions about them, and the files that store these.

A decision is a box, or that the picture has no prominent landmark. Decisions are stored in the published format
(:mod:`d2r.datasets.landmark_boxes`): ``train.csv`` lists the decided pictures; each has a box or none.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, KeysView, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from d2r.datasets.landmark_boxes import (
    FILES,
    PICTURES,
    TRAINING,
    VALIDATION,
    FractionBox,
    LandmarkPicture,
    read_boxes,
    read_pictures,
    write_boxes,
    write_pictures,
)
from d2r.datasets.landmark_sample import Sample, draw_sample
from d2r.errors import D2RError
from d2r.sources import find_pictures
from d2r.support.files import check_no_index, check_plain, display_path


class AnnotateError(D2RError):
    """A folder cannot be annotated; the message names it and says what to do."""


@dataclass(frozen=True)
class Decision:
    """The decision about a picture: the box of its landmark, or None for no prominent landmark."""

    box: FractionBox | None


@dataclass(frozen=True)
class Item:
    """A picture to annotate.

    Attributes:
        path: path of its file.
        picture: its row of ``train.csv``: the id is the path below the folder, the landmark is the sub-folder.
        split: name of the file for its box.
    """

    path: Path
    picture: LandmarkPicture
    split: str


@dataclass(frozen=True)
class AnnotationProgress:
    """Numbers of pictures: all, with a box, without a prominent landmark, and unreadable."""

    pictures: int
    boxes: int
    none: int
    unreadable: int

    @property
    def open(self) -> int:
        """Number of undecided pictures."""
        return self.pictures - self.boxes - self.none - self.unreadable


@dataclass(frozen=True)
class _State:
    """The contents of the files: pictures by id, and for each file of boxes its boxes by id."""

    pictures: Mapping[str, LandmarkPicture]
    boxes: Mapping[str, Mapping[str, FractionBox]]

    def decision(self, picture: str) -> Decision | None:
        if picture not in self.pictures:
            return None
        return Decision(next((boxes[picture] for boxes in self.boxes.values() if picture in boxes), None))

    def place(self, picture: str) -> str | None:
        return next((split for split, boxes in self.boxes.items() if picture in boxes), None)

    def without(self, picture: str) -> _State:
        return _State(
            {name: row for name, row in self.pictures.items() if name != picture},
            {split: {k: box for k, box in boxes.items() if k != picture} for split, boxes in self.boxes.items()},
        )

    def having(self, picture: LandmarkPicture, box: FractionBox | None, split: str) -> _State:
        boxes = {name: dict(given) for name, given in self.boxes.items()}
        if box is None:
            for given in boxes.values():
                given.pop(picture.id, None)
        else:
            boxes[split][picture.id] = box
        return _State({**self.pictures, picture.id: self.pictures.get(picture.id, picture)}, boxes)


class Session:
    """Decisions about a list of pictures; safe to use from several threads.

    Every method that changes something returns once the change is on disk; if it fails, it changes nothing.

    Attributes:
        items: the pictures, by number.
        out: folder of the files.
        sample: the sample, if only a sample is shown.
        skipped: errors of files and folders that could not be read.
    """

    def __init__(self, items: tuple[Item, ...], out: Path, sample: Sample | None, skipped: tuple[OSError, ...]) -> None:
        self.items = items
        self.out = out
        self.sample = sample
        self.skipped = skipped
        self._lock = threading.RLock()
        pictures = read_pictures(out / PICTURES)
        training = read_boxes(out / TRAINING, None)
        self._boxes_on_disk: dict[str, Mapping[str, FractionBox]] = {
            TRAINING: training,
            VALIDATION: read_boxes(out / VALIDATION, None, training),
        }
        self._pictures_on_disk: KeysView[str] = pictures.keys()
        boxes, self._unlisted = (
            {
                split: {picture: box for picture, box in read.items() if (picture in pictures) is listed}
                for split, read in self._boxes_on_disk.items()
            }
            for listed in (True, False)
        )
        self._state = _State(pictures, boxes)
        self._history: list[tuple[int, Decision | None, str | None]] = []
        self._unreadable: set[int] = set()

    def decision(self, number: int) -> Decision | None:
        """Return the decision about a picture; None if it is undecided."""
        with self._lock:
            return self._state.decision(self.items[number].picture.id)

    def decide(self, number: int, box: FractionBox | None) -> None:
        """Record that a picture has this box, or None for no prominent landmark.

        Raises:
            OSError: the files could not be written; nothing has changed.
        """
        item = self.items[number]
        with self._lock:
            before, place = self._state.decision(item.picture.id), self._state.place(item.picture.id)
            self._keep(self._state.having(item.picture, box, place or item.split))
            self._history.append((number, before, place))

    def undo(self) -> int | None:
        """Undo the last decision of this session; return the number of its picture, or None if there is none.

        Raises:
            OSError: the files could not be written; nothing has changed.
        """
        with self._lock:
            if not self._history:
                return None
            number, before, place = self._history[-1]
            item = self.items[number]
            if before is None:
                self._keep(self._state.without(item.picture.id))
            else:
                self._keep(self._state.having(item.picture, before.box, place or item.split))
            self._history.pop()
            return number

    @property
    def can_undo(self) -> bool:
        """Whether there is a decision to undo."""
        return bool(self._history)

    def mark(self, number: int, *, readable: bool) -> None:
        """Record, until the session ends, whether a picture is readable; an unreadable one needs no decision."""
        with self._lock:
            (self._unreadable.discard if readable else self._unreadable.add)(number)

    def progress(self) -> AnnotationProgress:
        """Return the numbers of pictures by decision."""
        with self._lock:
            decisions = [self._state.decision(item.picture.id) for item in self.items]
            boxes = sum(decision is not None and decision.box is not None for decision in decisions)
            decided = sum(decision is not None for decision in decisions)
            unreadable = sum(decisions[number] is None for number in self._unreadable)
            return AnnotationProgress(len(self.items), boxes, decided - boxes, unreadable)

    def next_open(self, after: int) -> int | None:
        """Return the next undecided picture after a number, starting over at the end; None if there is none."""
        count = len(self.items)
        with self._lock:
            for number in ((after + step) % count for step in range(1, count + 1)):
                if number not in self._unreadable and self.items[number].picture.id not in self._state.pictures:
                    return number
        return None

    def _keep(self, state: _State) -> None:
        """Write the files whose contents changed.

        Two files cannot change at the same time. The order of writing makes sure that a crash in between leaves a box
        without its picture, never a picture without its box, which would mean no prominent landmark. A box without its
        picture is not a decision, but stays in its file until its picture is decided: it may come from someone who has
        boxes without a list of pictures.
        """
        joins = len(state.pictures) >= len(self._state.pictures)
        for name in FILES if joins else reversed(FILES):
            if name == PICTURES and state.pictures.keys() != self._pictures_on_disk:
                write_pictures(self.out / name, state.pictures.values())
                self._pictures_on_disk = state.pictures.keys()
            elif name != PICTURES and (boxes := self._to_write(state, name)) != self._boxes_on_disk[name]:
                write_boxes(self.out / name, boxes)
                self._boxes_on_disk[name] = boxes
        self._state = state

    def _to_write(self, state: _State, split: str) -> dict[str, FractionBox]:
        unlisted = self._unlisted[split].items()
        return {**{picture: box for picture, box in unlisted if picture not in state.pictures}, **state.boxes[split]}


@contextmanager
def open_session(
    folder: Path, out: Path, *, sample_seed: int | None = None, leave_out_rare: bool = False
) -> Iterator[Session]:
    """Start or continue annotating the pictures of a folder; the files exist from the start.

    Args:
        folder: folder of pictures, searched recursively; a sub-folder's name is the landmark of all pictures below it.
        out: folder of the files. Pictures listed there are decided; those that are not in ``folder`` stay listed.
        sample_seed: show only a sample of each landmark, see :func:`d2r.datasets.landmark_sample.draw_sample`, and
            store the boxes of its two parts in two files; None shows all and stores the boxes in the file for training.
        leave_out_rare: see :func:`d2r.datasets.landmark_sample.draw_sample`.

    Raises:
        AnnotateError: there are no pictures, or another process is writing the files.
        d2r.datasets.landmark_boxes.LandmarkBoxesError: a file in ``out`` is damaged, or a landmark has too few pictures
            for a sample.
        OSError: ``out`` cannot be written or is inside an index, or one of the files is a link.
    """
    items, skipped = _items(folder)
    sample = None
    if sample_seed is not None:
        rows = [item.picture for item in items]
        sample = draw_sample(rows, sample_seed, leave_out_rare=leave_out_rare, name=display_path(folder))
        split = dict.fromkeys(sample.training, TRAINING) | dict.fromkeys(sample.validation, VALIDATION)
        items = [replace(item, split=split[item.picture.id]) for item in items if item.picture.id in split]
    if not items:
        what = "no pictures" if sample is None else "no pictures in sub-folders, one per landmark"
        raise AnnotateError(f"{display_path(folder)}: {what}")
    check_no_index(out)
    for name in FILES:
        check_plain(out / name)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".annotate.lock", timeout=0):
            for name in (TRAINING, VALIDATION):
                if not (out / name).exists():
                    write_boxes(out / name, {})
            if not (out / PICTURES).exists():
                write_pictures(out / PICTURES, ())
            yield Session(tuple(items), out, sample, tuple(skipped))
    except Timeout as error:
        raise AnnotateError(
            f"{display_path(out)}: another `d2r dataset annotate` is writing there; stop it first"
        ) from error


def _items(folder: Path) -> tuple[list[Item], list[OSError]]:
    """Return the pictures of a folder, all for training, and the errors of what could not be read."""
    root = folder.absolute()
    skipped: list[OSError] = []
    items = []
    for file in find_pictures(folder, on_error=skipped.append):
        below = Path(file.path).relative_to(root)
        landmark = below.parts[0] if len(below.parts) > 1 else None
        items.append(Item(Path(file.path), LandmarkPicture(str(below), None, landmark), TRAINING))
    return items, skipped
