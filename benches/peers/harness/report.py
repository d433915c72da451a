"""Turns measurements into one table per workload."""

import json
import os
import platform
from statistics import median

from .sources import describe
from .tools import TOOLS, Strongroom

HEADER = (
    "| row | tool | wall s | CPU s | MB/s | peak RSS MB | of it anonymous | then `sync` s | store MB |\n"
    "|---|---|--:|--:|--:|--:|--:|--:|--:|"
)
# Columns of which the ratio line tells peer / strongroom, in the header's order.
RATIO_KEYS = ("wall_s", "cpu_s", None, "rss_mb", "anon_mb", None, "store_mb")


def medians(measurements):
    """Returns `{row: {tool: {column: median over the rounds}}}`, rows in the order they ran."""
    grouped = {}
    for one in measurements:
        row = grouped.setdefault(one.row, {})
        row.setdefault(one.tool, []).append(one.as_json())
    numbers = ("wall_s", "cpu_s", "rss_mb", "anon_mb", "sync_s", "source_mb", "store_mb")
    return {
        row: {
            tool: {key: median(run[key] for run in runs) for key in numbers}
            for tool, runs in tools.items()
        }
        for row, tools in grouped.items()
    }


def table(sources, measurements, tool_order):
    """Returns a workload's table with what its bytes are."""
    lines = [f"### {sources.workload.name}: {sources.origin}", ""]
    lines += [f"- {line}" for line in describe(sources)]
    lines += ["", HEADER]
    for row, tools in medians(measurements).items():
        for name in tool_order:
            lines.append(_line(row, name, tools[name]))
        if Strongroom.name in tools and len(tools) > 1:
            lines.append(_ratio_line(row, tools))
    return "\n".join(lines)


def _line(row, name, values):
    rate = values["source_mb"] / max(values["wall_s"], 1e-3)
    return (
        f"| {row} | {name} | {values['wall_s']:.2f} | {values['cpu_s']:.2f} | {rate:.0f} "
        f"| {values['rss_mb']:.0f} | {values['anon_mb']:.0f} | {values['sync_s']:.2f} "
        f"| {values['store_mb']:.0f} |"
    )


def _ratio_line(row, tools):
    """Compares strongroom with the best peer of each column; above 1 strongroom is ahead."""
    own = tools[Strongroom.name]
    peers = [values for name, values in tools.items() if name != Strongroom.name]
    cells = []
    for key in RATIO_KEYS:
        if key is None:
            cells.append("")
        else:
            best = min(values[key] for values in peers)
            cells.append(f"**{best / max(own[key], 1e-3):.2f}×**")
    return f"| {row} | **best peer / strongroom** | {' | '.join(cells)} |"


def sync_table(counts, source_mb):
    """Returns the table of the calls that wait for the disk, for one backup of a sample."""
    calls = [name for name in next(iter(counts.values())) if any(c[name] for c in counts.values())]
    calls = calls or ["fsync"]
    lines = [
        f"### What one backup of {source_mb:.0f} MB syncs to disk (calls seen by strace)",
        "",
        f"| tool | {' | '.join(calls)} |",
        f"|---|{'--:|' * len(calls)}",
    ]
    for tool, count in counts.items():
        lines.append(f"| {tool} | {' | '.join(str(count[name]) for name in calls)} |")
    return "\n".join(lines)


def machine():
    """Returns what the numbers depend on, for the results file."""
    return {
        "cpus": os.cpu_count(),
        "memory_mb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6),
        "kernel": platform.release(),
    }


def versions_table(versions):
    """Returns the table of the tools and how they are run."""
    lines = ["| tool | version | how |", "|---|---|---|"]
    lines += [f"| {name} | {version} | {TOOLS[name].note} |" for name, version in versions.items()]
    return "\n".join(lines)


def write_results(path, *, options, versions, sync_counts, benches):
    """Writes everything that was measured as JSON."""
    results = {
        "schema": "strongroom.peers/1",
        "machine": machine(),
        "options": options,
        "versions": versions,
        "sync_calls": sync_counts,
        "workloads": {
            bench.sources.workload.name: {
                "origin": bench.sources.origin,
                "generations": bench.sources.stats,
                "runs": [one.as_json() for one in bench.measurements],
            }
            for bench in benches
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
