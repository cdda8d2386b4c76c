"""The response models of the API."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

# Lists, because the schema that FastAPI writes for a tuple is not valid OpenAPI 3.1.
BoxCoordinates = Annotated[list[float], Field(min_length=4, max_length=4)]
Point = Annotated[list[float], Field(min_length=2, max_length=2)]


class PictureInfo(BaseModel):
    """A picture of the collection."""

    id: int = Field(description="number in the index", examples=[17])
    name: str = Field(description="file name with its folder, or the name given when the picture was added")
    width: int = Field(description="in pixels, when upright")
    height: int = Field(description="in pixels, when upright")


class PictureDetail(PictureInfo):
    """A picture of the collection, with its regions."""

    regions: list[BoxCoordinates] = Field(description="x1, y1, x2, y2 in pixels; the whole picture first")
    region_scores: list[float] = Field(description="confidence of the selector in each region")
    uploaded: bool = Field(description="whether this service added the picture and keeps its file")


class PictureList(BaseModel):
    """A page of the pictures of the collection, by number."""

    pictures: list[PictureInfo]
    next: int | None = Field(description="`after` of the next page; null on the last")


class FoundPicture(BaseModel):
    """A picture found by a search."""

    picture: PictureInfo
    score: float = Field(description="R-ASMK* similarity to the query, at most 1")
    inliers: int | None = Field(description="matches consistent with one affine transform; null if not verified")
    confirmed: bool | None = Field(
        description="whether there are enough inliers for more than a similar picture; null if not verified"
    )
    kinds: dict[str, int] | None = Field(description="inliers of each kind of features; null if not verified")
    regions: list[BoxCoordinates] = Field(
        description="the described regions, x1, y1, x2, y2 in pixels; the whole picture first"
    )
    region_scores: list[float]
    transform: list[list[float]] | None = Field(
        description="affine, 2 x 3, from pixels of the query to pixels of this picture; null without inliers"
    )
    found: BoxCoordinates | None = Field(
        description="where the query was found, x1, y1, x2, y2 in pixels of this picture; null without inliers"
    )
    query_points: list[Point] = Field(description="inliers, in pixels of the query")
    points: list[Point] = Field(description="the same points, in pixels of this picture")


class QueryInfo(BaseModel):
    """The query of a search."""

    width: int
    height: int
    box: BoxCoordinates = Field(description="the query box, clipped to the picture")
    features: int = Field(description="number of local features in the box; without any, nothing can be found")


class SearchAnswer(BaseModel):
    """The answer to a search."""

    query: QueryInfo
    seconds: dict[str, float] = Field(description="wall-clock time of each stage")
    results: list[FoundPicture] = Field(description="best first")
    missing: int = Field(
        description="pictures that could not be searched because their machine did not answer; 0 if the answer is"
        " complete"
    )


class ThresholdAnswer(BaseModel):
    """The score of a picture of the collection for a query if its regions were selected with another threshold.

    With a threshold t the regions are those with a confidence of at least t, which come first; the score of the picture
    is the score listed for the last of them.
    """

    query: QueryInfo
    threshold: float = Field(description="threshold that the collection was indexed with")
    regions: list[BoxCoordinates] = Field(
        description="x1, y1, x2, y2 in pixels; the whole picture first, then the detections, best first"
    )
    region_scores: list[float] = Field(description="confidence of the detector in each region; 1 for the whole picture")
    scores: list[float] = Field(description="similarity to the query with the regions up to this one, at most 1")


class LimitsInfo(BaseModel):
    """The limits of the service."""

    upload_bytes: int
    pixels: int
    seconds: float
    top: int
    verify: int


class DefaultsInfo(BaseModel):
    """The default options of a search."""

    top: int
    verify: int
    expand: int


class Info(BaseModel):
    """The collection and the service."""

    version: str
    index: str = Field(description="name of the index")
    pictures: int
    words: int = Field(description="visual words")
    regions: str = Field(description="how regions were selected")
    features: str
    detector: bool = Field(description="whether regions come from a trained detector")
    threshold: float | None = Field(description="lowest confidence of the detector's regions; null without a detector")
    writable: bool = Field(description="whether pictures can be added and removed with the token")
    limits: LimitsInfo
    defaults: DefaultsInfo


class JobInfo(BaseModel):
    """A job that adds or removes a picture."""

    id: str
    kind: Literal["add", "remove"]
    state: Literal["queued", "running", "done", "failed"]
    name: str
    picture: int | None = Field(description="number of the picture; null before it has one")
    problem: str | None = Field(description="why the job failed, what it waits for, or a remark on the picture")
    done: int = Field(description="number of pictures done in the batch of this job")
    total: int = Field(description="number of pictures in the batch; 0 unless running")
    created: float = Field(description="seconds since 1970")
    finished: float | None


class JobList(BaseModel):
    """The latest jobs, newest first."""

    jobs: list[JobInfo]
    counts: dict[str, int] = Field(description="number of all jobs by state")


class Status(BaseModel):
    """The service is up."""

    status: Literal["ok"] = "ok"
