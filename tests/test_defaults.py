"""Every default is in one place, and everything takes it from there."""

import inspect
import subprocess
import sys

import pytest

import d2r.cli.plan
import d2r.pair
from d2r import defaults, engine, images, options
from d2r.cli import collection, evaluate, groups, search, serve
from d2r.cli import inspect as look
from d2r.cluster import plan
from d2r.indexing import codebook
from d2r.serve.settings import ServiceLimits

GIVEN = {
    "regions": defaults.REGIONS,
    "features": defaults.FEATURES,
    "max_side": defaults.MAX_SIDE,
    "verify_features": defaults.VERIFY_FEATURES,
    "max_pixels": defaults.MAX_PIXELS,
    "verify": defaults.VERIFY,
    "expand": defaults.EXPAND,
    "top": defaults.TOP,
    "least": defaults.GROUP_INLIERS,
}


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (engine.Engine.create, ["regions", "features", "max_side", "verify_features"]),
        (engine.Engine.sync, ["max_pixels"]),
        (engine.Engine.add, ["max_pixels"]),
        (engine.Engine.search, ["max_pixels"]),
        (options.SearchOptions, ["top", "verify", "expand"]),
        (codebook.learn_codebook, ["regions", "features", "max_side", "max_pixels"]),
        (images.read_image, ["max_pixels"]),
        (collection.index_photos, ["max_pixels"]),
        (search.search_index, ["top", "verify", "expand", "max_pixels"]),
        (collection.codebook, ["regions", "features", "max_pixels"]),
        (evaluate.evaluate_methods, ["regions", "features", "verify", "expand", "max_pixels"]),
        (evaluate.reproduce_experiment, ["features", "max_pixels"]),
        (evaluate.evaluate_detector, ["regions", "max_pixels"]),
        (groups.group, ["least", "max_pixels"]),
        (look.show_features, ["features", "max_side", "max_pixels"]),
        (look.match_two, ["features", "max_side", "max_pixels"]),
        (d2r.cli.plan.plan, ["verify"]),
        (plan.Request, ["verify"]),
        (d2r.pair.match_pictures, ["features", "max_side", "max_pixels"]),
    ],
)
def test_what_is_not_said_is_the_same_everywhere(function, names):
    taken = {name: inspect.signature(function).parameters[name].default for name in names}
    assert taken == {name: GIVEN[name] for name in names}


def test_the_service_is_started_with_the_limits_that_it_has_in_python():
    taken = {name: option.default for name, option in inspect.signature(serve.serve).parameters.items()}
    limits = ServiceLimits()
    assert (taken["port"], taken["queue"], taken["max_pixels"]) == (defaults.PORT, limits.queue, limits.pixels)
    assert (taken["timeout"], taken["max_upload"] << 20) == (limits.seconds, limits.upload_bytes)


def test_the_command_line_knows_them_without_loading_what_they_are_for():
    heavy = {"cv2", "d2r.engine", "d2r.images", "faiss", "fastapi", "numba", "numpy", "onnxruntime"}
    code = f"import sys, d2r.cli.app; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
