"""The command that estimates the hardware for a collection: ``d2r plan``."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from d2r.cli.json_output import AsJson, print_json
from d2r.cli.terminal import out, say
from d2r.defaults import VERIFY


def plan(
    pictures: Annotated[str, typer.Option(metavar="NUMBER", help="Pictures in the collection: 100e6 or 100M.")],
    regions: Annotated[
        float, typer.Option(min=1.0, help="Mean regions per picture, including the whole picture.")
    ] = 9.0,
    qps: Annotated[float, typer.Option(min=0.0, help="Queries per second.")] = 1.0,
    latency: Annotated[str, typer.Option(metavar="TIME", help="Median time per query: 200ms or 1s.")] = "1s",
    verify: Annotated[int, typer.Option(min=0, help="Results of each query to verify.")] = VERIFY,
    cores: Annotated[int, typer.Option(min=1, help="Cores per machine.")] = 32,
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Memory per machine: 256GB.")] = "256GB",
    bandwidth: Annotated[
        str, typer.Option(metavar="SIZE", help="Memory bandwidth per machine, all cores together, per second.")
    ] = "150GB",
    busy: Annotated[
        float, typer.Option(min=0.05, max=0.95, help="Highest share of the time that cores may be busy.")
    ] = 0.6,
    replicas: Annotated[int, typer.Option(min=1, help="Machines that hold each shard of the index.")] = 1,
    days: Annotated[float, typer.Option(min=0.01, help="Days in which to describe the collection.")] = 7.0,
    as_json: AsJson = False,
) -> None:
    """Estimate the machines, memory and disk that a collection needs, from measurements of this build."""
    from d2r.cluster.plan import MEASURED, PlanError, Request, make_plan

    request = Request(
        pictures=_number("--pictures", pictures, _COUNTS),
        regions=regions,
        qps=qps,
        latency_s=_number("--latency", latency, _TIMES),
        verify=verify,
        cores=cores,
        memory=_number("--memory", memory, _SIZES),
        bandwidth=_number("--bandwidth", bandwidth, _SIZES),
        busy=busy,
        replicas=replicas,
        days=days,
    )
    try:
        made = make_plan(request)
    except PlanError as error:
        raise typer.BadParameter(f"--latency: {error}") from error
    if as_json:
        measured = [asdict(one) for one in MEASURED]
        print_json("plan", {"request": asdict(request), "plan": asdict(made), "measured": measured})
        return
    least = {
        "memory": "the fewest that hold the index in memory",
        "queries": f"the fewest that are busy at most {busy:.0%} of the time",
        "latency": "the fewest that are fast enough",
    }
    _print_rows(
        "To search",
        [
            ("machines", f"{made.machines:,}  ({cores} cores, {_size(request.memory)} each; {least[made.bound]})"),
            ("shards of the index", f"{made.shards:,}, each on {replicas:,} machine{'' if replicas == 1 else 's'}"),
            (
                "memory of the index",
                f"{_size(made.search_bytes * replicas)}  ({_size(made.search_bytes / made.shards)} per machine)",
            ),
            ("words per picture", f"{made.words:,.0f}"),
            ("postings per query", f"{made.scored:,.0f} of {made.postings:,.0f}"),
            ("cores for descriptions", f"{made.front_cores:,}, in front"),
            ("network, front to shards", f"{_size(made.network)} per second"),
        ],
    )
    _print_rows(
        "A query",
        [
            ("half take at most", f"{1000 * made.median_s:,.0f} ms"),
            (
                "of this, scoring",
                f"{1000 * made.scoring_s:,.0f} ms, waiting {1000 * made.waiting_s:,.0f} ms,"
                f" verifying {1000 * made.verifying_s:,.0f} ms",
            ),
            ("one in a hundred takes", f"{1000 * made.slow_s:,.0f} ms"),
            ("machines are busy", f"{made.busy:.0%} of the time"),
        ],
    )
    _print_rows(
        "To build",
        [
            (
                "describing",
                f"{made.describing_core_hours:,.0f} core hours: {made.describing_cores:,} cores for {days:g} days",
            ),
            ("writing", f"{made.writing_hours:,.0f} hours of the one process that commits"),
            ("disk", f"{_size(made.disk_bytes)} per copy"),
        ],
    )
    _print_rows(
        "Cost",
        [
            (
                "machine hours per month",
                f"{730 * made.machines:,.0f} to search, {730 * made.front_cores:,.0f} core hours in front",
            ),
            ("core seconds per query", f"{made.core_s_a_query:,.2f}"),
            ("core hours, once", f"{made.describing_core_hours:,.0f} to describe"),
            ("memory, disk", f"{_size(made.search_bytes * replicas)}, {_size(made.disk_bytes)}"),
        ],
    )
    table = Table(
        title="Measured", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), show_header=False
    )
    for one in MEASURED:
        table.add_row(one.name, f"{one.value:,.4g} {one.unit}", f"[dim]{escape(one.source)}[/]")
    out.print(table)
    say(
        f"Assumed, not measured: {_size(request.bandwidth)} per second from the memory of a machine, random arrival of"
        " queries, negligible network time. For stragglers see docs/scale.md."
    )


_COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}
_TIMES = {"": 1.0, "s": 1.0, "ms": 1e-3}
_SIZES = {"": 1.0, "gb": 1e9, "tb": 1e12, "mb": 1e6}


def _number(option: str, text: str, units: dict[str, float]) -> float:
    """Parse a positive number with an optional unit."""
    found = re.fullmatch(r"([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-z]*)", text.strip().lower())
    if found is None or found[2] not in units or not float(found[1]) > 0:
        known = ", ".join(unit for unit in units if unit)
        raise typer.BadParameter(f"{option} {text!r}: give a number above 0, with one of the units {known} or none")
    return float(found[1]) * units[found[2]]


def _size(value: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if value >= size:
            return f"{value / size:,.1f} {unit}"
    return f"{value / 1e6:,.1f} MB"


def _print_rows(title: str, rows: list[tuple[str, str]]) -> None:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), show_header=False
    )
    for row in rows:
        table.add_row(*row)
    out.print(table)
    out.print()
