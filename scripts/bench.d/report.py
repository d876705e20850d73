#!/usr/bin/env python3
"""Makes medians, tables and a chart of what scripts/bench measured.

report.py DIRECTORY [--publish README CHART]    reads results.jsonl and facts there
report.py --targets                             what is expected
"""

import json
import re
import statistics
import sys
from collections import defaultdict
from html import escape
from pathlib import Path
from typing import NamedTuple

KAMEI = ("tun", "tc", "redirect", "xdp")
MARKS = ("<!-- scripts/bench --publish: from here -->", "<!-- to here -->")


class Row(NamedTuple):
    """A row: how it is called, and in which unit it and its cost are told."""

    title: str
    unit: str
    scale: float
    cost_unit: str
    cost_scale: float


BULK = ("Gb/s", 1e9, "s/GB", 1e9)
CONNECTIONS = ("k/s", 1e3, "s/10k", 1e4)
ROWS = {
    "tcp_out_1": Row("TCP, 1 stream, terminal → server", *BULK),
    "tcp_in_1": Row("TCP, 1 stream, server → virtual IP", *BULK),
    "tcp_out_4": Row("TCP, 4 streams, terminal → server", *BULK),
    "tcp_in_4": Row("TCP, 4 streams, server → virtual IP", *BULK),
    "http_out": Row("new HTTP connections, calls", *CONNECTIONS),
    "http_in": Row("new HTTP connections, callbacks", *CONNECTIONS),
    "packets": Row("60-byte packets, one core", "M/s", 1e6, "s/M", 1e6),
    "rtt": Row("round trip, idle", "µs", 1, "ms each", 1e3),
    "reordering": Row("TCP, 4 streams each way: out of order", "a GB", 1, "s/GB", 1e9),
}
WAYS = {
    "forward": "plain forwarding",
    "nftables": "nftables snat",
    "stateless": "nftables, no conntrack",
    "nftables_walled": "nftables snat, firewall",
    "tun": "kamei, TUN",
    "tun_alone": "kamei, TUN, one worker",
    "tc": "kamei, tc",
    "tc_walled": "kamei, tc, firewall",
    "redirect": "kamei, redirect",
    "xdp": "kamei, XDP",
    "empty_loop": "empty loop on TUN",
    "one_packet": "kamei, one packet a read",
    "tayga": "TAYGA",
    "pinned": "kamei, 4 workers pinned",
    "unpinned": "kamei, 4 workers anywhere",
}


class Target(NamedTuple):
    """What is expected of a way beside another one: a ratio at least, or a difference at most."""

    row: str
    gateways: int
    way: str
    base: str
    bound: float
    added: bool = False

    def title(self):
        """The comparison in words."""
        sign = "−" if self.added else "÷"
        return f"{title(self.row, self.gateways)}: {WAYS[self.way]} {sign} {WAYS[self.base]}"

    def expected(self):
        """The bound in words."""
        return f"≤ {self.bound:g} µs" if self.added else f"≥ {self.bound:g}"


def targets():
    """All of them."""
    bulk, connections = {"tun": 0.85, "tc": 1.05}, {"tun": 0.90, "tc": 1.15}
    for row in ("tcp_out_1", "tcp_in_1", "tcp_out_4", "tcp_in_4"):
        for way, bound in (bulk | {"redirect": 1.12}).items():
            yield Target(row, 1, way, "nftables", bound)
        yield Target(row, 1, "tc", "stateless", 1.0)
    for row in ("http_out", "http_in"):
        for way, bound in connections.items():
            yield Target(row, 1, way, "nftables", bound)
    yield Target("packets", 1, "tc", "nftables", 1.35)
    yield Target("packets", 1, "xdp", "nftables", 3)
    yield Target("packets", 1, "tc", "stateless", 1.2)
    yield Target("packets", 1, "tc_walled", "nftables_walled", 1)
    yield Target("packets", 1, "tun_alone", "empty_loop", 0.95)
    yield Target("rtt", 1, "tun", "forward", 40, added=True)
    yield Target("rtt", 1, "tc", "forward", 2, added=True)
    yield Target("tcp_out_1", 1, "tun", "tayga", 8)
    yield Target("tcp_out_1", 1, "tun", "one_packet", 10)
    for gateways in (2, 3):
        for row, bounds in (("tcp_out_1", bulk), ("http_out", connections), ("http_in", connections)):
            for way, bound in bounds.items():
                yield Target(row, gateways, way, "nftables", bound)


def title(row, gateways):
    """A row's name, with the length of the cascade."""
    return ROWS[row].title + (f", {gateways} gateways in a row" if gateways > 1 else "")


def read_facts(path):
    """KEY=VALUE lines; `refused WAY=reason` go apart."""
    facts, refused = {}, {}
    for line in path.read_text().splitlines():
        key, _, value = line.partition("=")
        if key.startswith("refused "):
            refused[key.removeprefix("refused ")] = value
        else:
            facts[key] = value
    return facts, refused


def medians(lines):
    """(row, gateways, way) → median, lowest and highest value, and cost; in units of the row."""
    found = defaultdict(list)
    for line in lines:
        found[line["row"], line["gateways"], line["way"]].append(line)
    results = {}
    for key, measured in found.items():
        row = ROWS[key[0]]
        values = [line["value"] / row.scale for line in measured if line["value"] is not None]
        costs = [line["cpu"] / line["amount"] * row.cost_scale for line in measured if line["amount"]]
        if not values:
            continue
        results[key] = {
            "median": statistics.median(values),
            "lowest": min(values),
            "highest": max(values),
            "cost": statistics.median(costs) if costs else None,
            "rounds": len(values),
        }
        for more in ("p99", "sent_again"):
            if more in measured[0]:
                results[key][more] = statistics.median(line[more] for line in measured)
    return results


def compare(target, results):
    """The ratio or difference of a target's medians; None if one of them is missing."""
    way = results.get((target.row, target.gateways, target.way))
    base = results.get((target.row, target.gateways, target.base))
    if not way or not base or not base["median"]:
        return None
    return way["median"] - base["median"] if target.added else way["median"] / base["median"]


def met(target, value):
    """Whether a comparison is as expected."""
    return value <= target.bound if target.added else value >= target.bound


def number(value):
    """Three digits that matter."""
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) < 0.1 else f"{value:.2f}"


def targets_table(results):
    """Every expectation, with what was measured."""
    yield "| what | measured | expected | |"
    yield "| --- | ---: | ---: | --- |"
    for target in targets():
        value = compare(target, results)
        word = "not measured" if value is None else "" if met(target, value) else "missed"
        yield f"| {target.title()} | {number(value)} | {target.expected()} | {word} |"


def full_table(results):
    """Every figure, with its spread and cost."""
    yield "| what | way | median | lowest to highest | ÷ nftables | cost |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    for (row, gateways, way), result in sorted(results.items(), key=order):
        base = results.get((row, gateways, "nftables"))
        ratio = number(result["median"] / base["median"]) if base and base["median"] and row != "rtt" else ""
        spread = f"{number(result['lowest'])} to {number(result['highest'])}"
        spread += f", p99 {number(result['p99'])}" if "p99" in result else ""
        spread += f", sent again {number(result['sent_again'])} a GB" if "sent_again" in result else ""
        unit, cost_unit = ROWS[row].unit, ROWS[row].cost_unit
        yield (
            f"| {title(row, gateways)} | {WAYS[way]} | {number(result['median'])} {unit} | {spread} | {ratio} |"
            f" {number(result['cost'])} {cost_unit} |"
        )


def order(item):
    """Cascades last, rows and ways as they are listed above."""
    row, gateways, way = item[0]
    return gateways, list(ROWS).index(row), list(WAYS).index(way)


def summary_table(results):
    """What the README shows: a line for each row, kamei's ways relative to nftables."""
    bounds = {(target.row, target.gateways, target.way): target for target in targets() if target.base == "nftables"}
    yield "| kamei ÷ nftables `snat`, 1:1 | nftables | TUN | tc | redirect | XDP |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for row, gateways in sorted({key[:2] for key in results}, key=lambda key: (key[1], list(ROWS).index(key[0]))):
        base = results.get((row, gateways, "nftables"))
        if row in ("rtt", "reordering") or not base:
            continue
        cells = []
        for way in KAMEI:
            there = "tun_alone" if (row, way) == ("packets", "tun") else way
            target = bounds.get((row, gateways, way)) or Target(row, gateways, there, "nftables", 0)
            value = compare(target, results)
            missed = value is not None and not met(target, value)
            cells.append(number(value) + (f" (of {target.bound:g})" if missed else ""))
        yield f"| {title(row, gateways)} | {number(base['median'])} {ROWS[row].unit} | {' | '.join(cells)} |"
    walled = Target("packets", 1, "tc_walled", "nftables_walled", 1)
    if (value := compare(walled, results)) is not None:
        base = results["packets", 1, "nftables_walled"]["median"]
        yield f"| {ROWS['packets'].title}, both behind a firewall with connection tracking | {number(base)} M/s | – | {number(value)} | – | – |"


def machine(facts, results):
    """Where and how it was measured, in a sentence."""
    rounds = max((result["rounds"] for result in results.values()), default=0)
    return (
        f"{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}, namespaces over veth, medians of {rounds} rounds,"
        f" load {facts['load']} before it began, kamei {facts['kamei']}"
    )


# --- the chart ------------------------------------------------------------------------------------------------------

LEFT, WIDTH, BAR, GAP = 280, 460, 13, 12
AXIS = 2.0  # whatever is more is cut, and says so
COLOURS = {"forward": "#9aa4b2", "stateless": "#c9a227", "tun": "#4c8dd6", "tc": "#1fa187", "redirect": "#7b5cd6", "xdp": "#d6604d"}
STYLE = """text{font:12px system-ui,sans-serif;fill:#24292f}.small{font-size:11px;fill:#57606a}.line{stroke:#57606a}
.grid{stroke:#d0d7de}.target{stroke:#24292f;stroke-width:2}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9da7b3}.line{stroke:#9da7b3}.grid{stroke:#30363d}.target{stroke:#e6edf3}}"""


def chart(results, facts):
    """An SVG: bars relative to nftables = 1, a tick where the target is."""
    bounds = {(target.row, target.gateways, target.way): target.bound for target in targets() if target.base == "nftables"}
    parts, y = [], 44
    for row, gateways in sorted({key[:2] for key in results}, key=lambda key: (key[1], list(ROWS).index(key[0]))):
        base = results.get((row, gateways, "nftables"))
        if row in ("rtt", "reordering") or not base or not base["median"]:
            continue
        under = (f"{gateways} gateways in a row, " if gateways > 1 else "") + f"nftables {number(base['median'])} {ROWS[row].unit}"
        parts.append(f'<text x="{LEFT - 10}" y="{y + 11}" text-anchor="end">{escape(ROWS[row].title)}</text>')
        parts.append(f'<text class="small" x="{LEFT - 10}" y="{y + 26}" text-anchor="end">{under}</text>')
        start = y
        for way, colour in COLOURS.items():
            result = results.get((row, gateways, "tun_alone" if (row, way) == ("packets", "tun") else way))
            if not result:
                continue
            ratio = result["median"] / base["median"]
            length = WIDTH * min(ratio, AXIS) / AXIS
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR - 2}" rx="2" fill="{colour}"/>')
            end = LEFT + length
            if (bound := bounds.get((row, gateways, way))) and bound <= AXIS:
                at = LEFT + WIDTH * bound / AXIS
                end = max(end, at)
                parts.append(f'<line class="target" x1="{at:.1f}" x2="{at:.1f}" y1="{y - 1}" y2="{y + BAR - 1}"/>')
            label = f"{ratio:.2f}" + (" »" if ratio > AXIS else "")
            parts.append(f'<text class="small" x="{end + 5:.1f}" y="{y + 9}">{label}</text>')
            y += BAR
        y = max(y, start + 2 * BAR + 4) + GAP
    grid = []
    for tenth in range(0, int(AXIS * 10) + 1, 5):
        at = LEFT + WIDTH * tenth / 10 / AXIS
        grid.append(f'<line class="{"line" if tenth == 10 else "grid"}" x1="{at}" x2="{at}" y1="36" y2="{y}"/>')
        grid.append(f'<text class="small" x="{at}" y="{y + 14}" text-anchor="middle">{tenth / 10:g}</text>')
    legend, x = [], 12
    for way, colour in COLOURS.items():
        legend.append(f'<rect x="{x}" y="10" width="11" height="11" rx="2" fill="{colour}"/><text x="{x + 16}" y="20">{WAYS[way]}</text>')
        x += 38 + 7 * len(WAYS[way])
    legend.append(f'<line class="target" x1="{x}" x2="{x}" y1="9" y2="22"/><text x="{x + 8}" y="20">expected</text>')
    width, height = max(LEFT + WIDTH + 60, x + 80), y + 42
    foot = f'<text class="small" x="12" y="{height - 8}">relative to nftables snat = 1; {escape(machine(facts, results))}</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">'
        f"<title>kamei beside nftables</title><style>{STYLE}</style>\n" + "\n".join(grid + parts + legend + [foot]) + "\n</svg>\n"
    )


# --- putting it out -------------------------------------------------------------------------------------------------


def publish(readme, chart_path, table, said, drawing):
    """Replaces what stands between the marks in the README, and the chart beside the scripts."""
    Path(chart_path).write_text(drawing)
    begin, end = MARKS
    picture = Path(chart_path).relative_to(Path(readme).parent)
    text = f"![kamei beside nftables, relative]({picture})\n\n" + "\n".join(table) + f"\n\n({said})"
    whole = Path(readme).read_text()
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    if not re.search(pattern, whole, re.DOTALL):
        sys.exit(f"report: {readme} has no place for it: a line {begin} and a line {end}")
    Path(readme).write_text(re.sub(pattern, lambda _: f"{begin}\n\n{text}\n\n{end}", whole, flags=re.DOTALL))


def main(arguments):
    """The command line."""
    if arguments == ["--targets"]:
        print("\n".join(f"{target.title()} {target.expected()}" for target in targets()))
        return
    directory = Path(arguments[0])
    lines = [json.loads(line) for line in (directory / "results.jsonl").read_text().splitlines()]
    facts, refused = read_facts(directory / "facts")
    results = medians(lines)
    listed = [dict(zip(("row", "gateways", "way"), key, strict=True)) | result for key, result in sorted(results.items(), key=order)]
    compared = [target._asdict() | {"measured": compare(target, results)} for target in targets()]
    (directory / "results.json").write_text(
        json.dumps({"facts": facts, "not_measured": refused, "results": listed, "targets": compared}, indent=1, ensure_ascii=False)
    )
    drawing = chart(results, facts)
    (directory / "chart.svg").write_text(drawing)
    said = machine(facts, results)
    text = [said, "", *targets_table(results), "", *full_table(results)]
    if refused:
        text += ["", "Not measured:", "", *(f"- {WAYS[way]}: {reason}" for way, reason in refused.items())]
    (directory / "results.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))
    if arguments[1:2] == ["--publish"]:
        publish(*arguments[2:4], summary_table(results), said, drawing)


main(sys.argv[1:])
