import os
import pwd
import resource
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

import d2r
from d2r.support.compiling import private_folder

ONCE = "compiling, once after an installation\n"
SMALL = """
from d2r.support.compiling import compiled

@compiled(int)
def add_one(number):
    return number + 1

if __name__ == "__main__":
    print(add_one(1))
"""


def blocked(folder):
    """Make a folder of sources unable to hold machine code, as for a user who cannot write to it."""
    (folder / "__pycache__").write_text("")
    return folder


def environment(**others):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_"))}
    return {**kept, **{name: os.fspath(value) for name, value in others.items()}}


def run(*command, **options):
    done = subprocess.run([sys.executable, *map(os.fspath, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def d2r_command(*arguments, **options):
    return run("-c", "from d2r.cli.app import main; main()", *arguments, **options)


@pytest.fixture
def small(tmp_path):
    """A program with one compiled function, beside which nothing can be written."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "small.py").write_text(SMALL)
    return blocked(folder) / "small.py"


@pytest.fixture(scope="module")
def read_only(tmp_path_factory):
    """The environment of a user without a home who cannot write to the installation."""
    root = tmp_path_factory.mktemp("installation")
    for folder, folders, files in os.walk(d2r.__path__[0]):
        folders[:] = [name for name in folders if name != "__pycache__"]
        copy = root / "d2r" / Path(folder).relative_to(d2r.__path__[0])
        copy.mkdir(parents=True)
        for name in files:
            (copy / name).symlink_to(Path(folder, name))
        blocked(copy)
    (root / "tmp").mkdir()
    return environment(PYTHONPATH=root, HOME="/dev/null", TMPDIR=root / "tmp")


def test_what_was_compiled_while_indexing_is_kept_for_searches_also_without_a_home(read_only, photo_folder, tmp_path):
    folder = Path(read_only["TMPDIR"], f"d2r-numba-{os.geteuid()}")
    index = tmp_path / "new.index"
    indexing = "index", photo_folder, "--out", index, "--words", "64", "--workers", "2", "--regions", "whole"
    _, said = d2r_command(*indexing, env=read_only)
    assert said.count("compiling") == 1
    assert f"machine code is kept in {folder}" in " ".join(said.split())
    assert folder.stat().st_mode & 0o777 == 0o700
    kept = sorted(path.name for path in folder.rglob("*.nbc"))
    assert len(kept) == len(list(folder.rglob("*.nbi")))  # each function was compiled for one set of types
    _, said = d2r_command("search", index, photo_folder / "pagoda-1.jpg", "--diffuse", env=read_only)
    assert "compiling" not in said
    assert sorted(path.name for path in folder.rglob("*.nbc")) == kept


def test_a_command_that_needs_nothing_compiled_compiles_nothing(read_only, built_index, tmp_path):
    out, said = d2r_command("info", built_index, env={**read_only, "TMPDIR": os.fspath(tmp_path)})
    assert "pictures" in out
    assert said == ""
    assert not list(tmp_path.rglob("*.nb?"))


def test_help_does_not_load_what_compiles():
    out, _ = run(
        "-c",
        "import sys\n"
        "from d2r.cli.app import main\n"
        "sys.argv = ['d2r', 'index', '--help']\n"
        "try: main()\n"
        "except SystemExit: print('numba' in sys.modules)",
    )
    assert out.endswith("False\n")


def test_without_any_folder_it_compiles_each_time_and_says_how_to_change_that(small, tmp_path):
    nowhere = environment(HOME="/dev/null", TMPDIR="/dev/null")
    out, said = run(small, env=nowhere)
    assert out == "2\n"
    assert said.startswith("compiling, at every start: ")
    assert "NUMBA_CACHE_DIR" in said
    place = environment(HOME="/dev/null", TMPDIR="/dev/null", NUMBA_CACHE_DIR=tmp_path / "code")
    assert run(small, env=place) == ("2\n", ONCE)
    assert run(small, env=place) == ("2\n", "")


def test_damaged_machine_code_is_compiled_anew(small, tmp_path):
    place = environment(NUMBA_CACHE_DIR=tmp_path / "code")
    run(small, env=place)
    for ending, content in (("nbi", b""), ("nbc", b"garbage")):
        (file,) = (tmp_path / "code").rglob(f"*.{ending}")
        file.write_bytes(content)
        assert run(small, env=place) == ("2\n", ONCE)
    assert run(small, env=place) == ("2\n", "")


def test_a_full_disk_does_not_keep_a_function_from_running(small, tmp_path):
    place = environment(NUMBA_CACHE_DIR=tmp_path / "code")
    full = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))}
    assert run(small, env=place, **full) == ("2\n", ONCE)
    assert not list((tmp_path / "code").rglob("*.nbc"))
    assert run(small, env=place) == ("2\n", ONCE)


def test_a_user_who_is_not_in_the_list_of_users_gets_no_folder_of_a_strange_name(small, tmp_path, monkeypatch):
    def unknown(user):
        raise KeyError(user)

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setenv("TMPDIR", "/dev/null")
    monkeypatch.chdir(tmp_path)
    private_folder.cache_clear()
    try:
        spec = spec_from_file_location("small", small)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        assert module.add_one(1) == 2
    finally:
        private_folder.cache_clear()
    assert [path.name for path in tmp_path.iterdir()] == ["sources"]


def folder_in(parent, monkeypatch):
    monkeypatch.setenv("TMPDIR", os.fspath(parent))
    return private_folder.__wrapped__()


def test_a_folder_that_others_can_write_or_replace_is_not_used(tmp_path, monkeypatch):
    name = f"d2r-numba-{os.geteuid()}"
    assert folder_in(tmp_path, monkeypatch) == tmp_path / name
    for mode in (0o770, 0o707, 0o755):
        (tmp_path / name).chmod(mode)
        assert folder_in(tmp_path, monkeypatch) is None
    (tmp_path / name).rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").chmod(0o700)
    (tmp_path / name).symlink_to("elsewhere")
    assert folder_in(tmp_path, monkeypatch) is None
    (tmp_path / name).unlink()
    tmp_path.chmod(0o777)
    assert folder_in(tmp_path, monkeypatch) is None
    tmp_path.chmod(0o1777)  # nobody can rename somebody else's files there
    assert folder_in(tmp_path, monkeypatch) == tmp_path / name


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user")
def test_a_folder_that_another_user_made_beforehand_is_not_used(tmp_path, monkeypatch):
    folder = tmp_path / f"d2r-numba-{os.geteuid()}"
    folder.mkdir(mode=0o700)
    shutil.chown(folder, 65534)
    assert folder_in(tmp_path, monkeypatch) is None
