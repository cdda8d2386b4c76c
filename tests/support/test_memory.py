import os

from d2r.support.memory import usable_memory


def test_no_more_memory_is_usable_than_the_machine_has():
    assert 0 < usable_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_the_limit_of_a_control_group_counts(monkeypatch, tmp_path):
    group = tmp_path / "outer" / "inner"
    group.mkdir(parents=True)
    (tmp_path / "outer" / "memory.max").write_text("5000\n")
    (group / "memory.max").write_text("max\n")
    monkeypatch.setattr("d2r.support.memory._GROUPS", tmp_path)
    monkeypatch.setattr("d2r.support.memory._OWN", tmp_path / "cgroup")
    (tmp_path / "cgroup").write_text("0::/outer/inner\n")
    assert usable_memory() == 5000
    old = tmp_path / "memory" / "jobs"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("4000\n")
    (tmp_path / "cgroup").write_text("5:cpu:/x\n4:memory:/jobs\n0::/outer/inner\n")
    assert usable_memory() == 4000
