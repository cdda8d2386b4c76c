"""What the API answers with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

# Lists and not tuples: what FastAPI writes of a tuple is no schema of OpenAPI 3.1.
BoxCoordinates = Annotated[list[float], Field(min_length=4, max_length=4)]
Point = Annotated[list[float], Field(min_length=2, max_length=2)]


class PictureInfo(BaseModel):
    """A picture of the collection."""

    id: int = Field(description="its number in the index", examples=[17])
    name: str = Field(description="its file and folder, or what it was called when it was added")
    width: int = Field(description="in pixels, upright")
    height: int = Field(description="in pixels, upright")


class PictureDetail(PictureInfo):
    """A picture of the collection, and the regions that were described of it."""

    regions: list[BoxCoordinates] = Field(description="x1, y1, x2, y2 in pixels; the whole picture first")
    region_scores: list[float] = Field(description="how sure the selector was of each region")
    uploaded: bool = Field(description="whether it was added by this service, which then keeps its file")


class PictureList(BaseModel):
    """Some pictures of the collection, by number."""

    pictures: list[PictureInfo]
    next: int | None = Field(description="`after` of the next page; null on the last")


class FoundPicture(BaseModel):
    """A picture that was found."""

    picture: PictureInfo
    score: float = Field(description="R-ASMK* similarity to the query, at most 1")
    inliers: int | None = Field(description="matched points that agree with one affine map; null when not verified")
    kinds: dict[str, int] | None = Field(description="inliers of each kind of features; null when not verified")
    regions: list[BoxCoordinates] = Field(
        description="that were described, x1, y1, x2, y2 in pixels; the whole picture first"
    )
    region_scores: list[float]
    transform: list[list[float]] | None = Field(
        description="2 x 3, from pixels of the query to pixels of this picture; null without agreeing points"
    )
    found: BoxCoordinates | None = Field(
        description="what was searched for, x1, y1, x2, y2 in pixels of this picture; null without agreeing points"
    )
    query_points: list[Point] = Field(description="matched points, in pixels of the query")
    points: list[Point] = Field(description="the same points, in pixels of this picture")


class QueryInfo(BaseModel):
    """What was searched for."""

    width: int
    height: int
    box: BoxCoordinates = Field(description="as it was used: cut to the picture")
    features: int = Field(description="local features that were found in the box; with none nothing can be found")


class SearchAnswer(BaseModel):
    """The answer to a search."""

    query: QueryInfo
    seconds: dict[str, float] = Field(description="wall-clock time of each stage")
    results: list[FoundPicture] = Field(description="best first")
    missing: int = Field(
        description="pictures that could not be looked at, because the machine that has them did not answer; 0 when the"
        " answer is complete"
    )


class ThresholdAnswer(BaseModel):
    """What a picture of the collection would be to a query if its regions were chosen with another threshold.

    With a threshold t the regions are those that score t or more, which come first; the score of the picture is then
    that of the last of them.
    """

    query: QueryInfo
    threshold: float = Field(description="that the collection was indexed with")
    regions: list[BoxCoordinates] = Field(
        description="x1, y1, x2, y2 in pixels; the whole picture first, then what the detector finds, best first"
    )
    region_scores: list[float] = Field(description="how sure the detector is of each region; 1 for the whole picture")
    scores: list[float] = Field(description="similarity to the query with the regions up to this one, at most 1")


class LimitsInfo(BaseModel):
    """What the service takes."""

    upload_bytes: int
    pixels: int
    seconds: float
    top: int
    verify: int


class DefaultsInfo(BaseModel):
    """What a search takes that does not say otherwise."""

    top: int
    verify: int
    expand: int


class Info(BaseModel):
    """The collection and the service."""

    version: str
    index: str = Field(description="name of the index")
    pictures: int
    words: int = Field(description="visual words")
    regions: str = Field(description="how regions were chosen")
    features: str
    detector: bool = Field(description="whether regions come from a trained detector")
    threshold: float | None = Field(description="least score of a detector's regions; null without one")
    writable: bool = Field(description="whether pictures can be added and removed by who has the token")
    limits: LimitsInfo
    defaults: DefaultsInfo


class JobInfo(BaseModel):
    """A picture that is to be added or removed."""

    id: str
    kind: Literal["add", "remove"]
    state: Literal["queued", "running", "done", "failed"]
    name: str
    picture: int | None = Field(description="number of the picture; null before it has one")
    problem: str | None = Field(description="why it failed, what it waits for, or what to know of the picture")
    done: int = Field(description="of the pictures that are worked on together with this one, how many are done")
    total: int = Field(description="how many there are; 0 unless running")
    created: float = Field(description="seconds since 1970")
    finished: float | None


class JobList(BaseModel):
    """The latest jobs, the newest first."""

    jobs: list[JobInfo]
    counts: dict[str, int] = Field(description="of all jobs, by state")


class Status(BaseModel):
    """That the service is there."""

    status: Literal["ok"] = "ok"
