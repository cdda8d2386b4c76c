"""The unit and the container file: what can be checked of them without a system that runs them."""

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
