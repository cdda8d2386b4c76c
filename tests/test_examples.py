"""The scripts and the notebook as a user runs them; of the unit and the container file what can be checked here."""

import ast
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import typer

from d2r.cli.app import app
from programs import run

EXAMPLES = Path(__file__).parents[1] / "examples"


def unit_command():
    return shlex.split(re.search(r"^ExecStart=(.*)$", (EXAMPLES / "d2r.service").read_text(), re.MULTILINE).group(1))


def container_command():
    return json.loads(re.search(r"^ENTRYPOINT (.*)$", (EXAMPLES / "Containerfile").read_text(), re.MULTILINE).group(1))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_has_nothing_to_say_against_the_unit(tmp_path):
    unit = tmp_path / "d2r.service"
    unit.write_text((EXAMPLES / "d2r.service").read_text().replace(unit_command()[0], sys.executable))
    done = run("systemd-analyze", "verify", "--man=no", unit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("command", [unit_command(), container_command()], ids=["unit", "container"])
def test_the_command_takes_the_options_that_it_is_given(command):
    program, name, *arguments = command
    assert (Path(program).name, name) == ("d2r", "serve")
    context = typer.main.get_command(app).commands["serve"].make_context("serve", arguments)
    assert context.params["token_file"].name == "token"
    assert context.params["uploads"].name == "uploads"


def test_the_container_answers_to_no_name_but_those_of_this_machine():
    context = typer.main.get_command(app).commands["serve"].make_context("serve", container_command()[2:])
    assert {"127.0.0.1", "localhost"} == set(context.params["allow_host"])


def test_the_container_file_copies_what_is_there():
    root = EXAMPLES.parent
    copied = re.findall(r"^COPY (.*) \S+$", (EXAMPLES / "Containerfile").read_text(), re.MULTILINE)
    names = [name for line in copied for name in line.split()]
    assert {"pyproject.toml", "README.md", "src"} == set(names)
    assert all((root / name).exists() for name in names)


@pytest.mark.parametrize(
    ("script", "written"),
    [
        ("search_photos", {"photos.index", "found.html"}),
        ("own_features", {"vgg.index"}),
        ("image_pairs", {"pairs.index", "pairs.txt", "match.png"}),
    ],
)
def test_a_script_finds_the_other_view_and_writes_what_it_says(tmp_path, script, written):
    done = run(sys.executable, EXAMPLES / f"{script}.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "motorcycle_right.png" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == written
    said = ast.get_docstring(ast.parse((EXAMPLES / f"{script}.py").read_text()))
    assert all(name in said for name in (f"python {script}.py", *written))


@pytest.mark.parametrize(
    ("script", "told"),
    [("search_photos", "pagoda-2.jpg"), ("own_features", "pagoda-0.jpg"), ("image_pairs", "3 pairs")],
)
def test_a_script_takes_a_folder_of_ones_own(tmp_path, photo_folder, script, told):
    (tmp_path / "views").mkdir()
    for path in photo_folder.glob("pagoda-*.jpg"):
        shutil.copy(path, tmp_path / "views")
    query = [] if script == "image_pairs" else ["views/pagoda-0.jpg"]
    done = run(sys.executable, EXAMPLES / f"{script}.py", "views", *query, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert told in done.stdout


def test_the_notebook_runs_and_is_kept_without_outputs(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where it has its index
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
    told = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert told.startswith("8 pictures, ")
    assert told.rstrip().endswith("0 None")
