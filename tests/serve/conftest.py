import shutil
from pathlib import Path

import pytest

from serving import serving


@pytest.fixture(scope="module")
def index(built_index, tmp_path_factory):
    """A copy of the index that a test may change."""
    return Path(shutil.copytree(built_index, tmp_path_factory.mktemp("served") / "photos.index"))


@pytest.fixture(scope="module")
def client(index, tmp_path_factory):
    with serving(index, tmp_path_factory.mktemp("uploads")) as client:
        yield client


@pytest.fixture(scope="module")
def pagoda(photo_folder):
    """The bytes of a photograph; the index has two other views of its object."""
    return (photo_folder / "pagoda-0.jpg").read_bytes()
