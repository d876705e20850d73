#!/usr/bin/env python3
"""Makes medians, tables and a chart of what scripts/bench measured.

report.py DIRECTORY [--publish README PAGE CHART]    reads results.jsonl and facts there
report.py --targets                                  what is expected
"""

import json
import os
import re
import statistics
import sys
from collections import defaultdict
from html import escape
from pathlib import Path
from typing import NamedTuple

KAMEI = ("tun", "tc", "redirect", "xdp")
WALL = "_walled"
MARKS = ("<!-- scripts/bench --publish: from here -->", "<!-- to here -->")
# A baseline that varies by more than this from round to round makes ratios worthless, and this many µs a difference.
LIMIT, LIMIT_MICROSECONDS = 0.10, 2


class Row(NamedTuple):
    """A row: how it is called, in which unit it and its cost are told, and what ways are compared with."""

    title: str
    unit: str
    scale: float
    cost_unit: str
    cost_scale: float
    base: str = "nftables"
    in_ratios: bool = True


BULK = ("Gb/s", 1e9, "s/GB", 1e9)
CONNECTIONS = ("k/s", 1e3, "s/10k", 1e4)
PACKETS = ("M/s", 1e6, "s/M", 1e6)
ROWS = {
    "tcp_out_1": Row("TCP, 1 stream, terminal → server", *BULK),
    "tcp_in_1": Row("TCP, 1 stream, server → virtual IP", *BULK),
    "tcp_out_4": Row("TCP, 4 streams, terminal → server", *BULK),
    "tcp_in_4": Row("TCP, 4 streams, server → virtual IP", *BULK),
    "http_out": Row("new HTTP connections, calls", *CONNECTIONS),
    "http_in": Row("new HTTP connections, callbacks", *CONNECTIONS),
    "packets": Row("60-byte packets, one core", *PACKETS),
    "transit": Row("60-byte packets of others, one core", *PACKETS, base="forward"),
    "rtt": Row("round trip, idle", "µs", 1, "ms each", 1e3, base="forward", in_ratios=False),
    "reordering": Row("TCP, 4 streams each way: out of order", "a GB", 1, "s/GB", 1e9, base="forward", in_ratios=False),
}
WAYS = {
    "forward": "plain forwarding",
    "nftables": "nftables snat",
    "stateless": "nftables, no conntrack",
    "tun": "kamei, user space",
    "tun_alone": "kamei, user space, one worker",
    "tc": "kamei, tc",
    "tc_clsact": "kamei, tc by clsact, guard in nftables",
    "redirect": "kamei, redirect",
    "xdp": "kamei, XDP",
    "empty_loop": "empty loop on kamei's device",
    "one_packet": "kamei, user space, one packet a read",
    "tayga": "TAYGA",
    "pinned": "kamei, user space, 4 workers pinned",
    "unpinned": "kamei, user space, 4 workers anywhere",
}
# What stands for user space where one worker is watched.
ALONE = {("packets", "tun"): "tun_alone"}


class Setting(NamedTuple):
    """A row behind so many gateways in a row, with or without a stateful firewall at each."""

    row: str
    gateways: int = 1
    walled: bool = False

    def title(self):
        """In words."""
        wall = ", firewall" if self.walled else ""
        return ROWS[self.row].title + wall + (f", {self.gateways} gateways in a row" if self.gateways > 1 else "")

    def order(self):
        """As they are listed: one gateway, the same with a firewall, then cascades; others' packets before round trips."""
        return self.gateways, self.walled, list(ROWS).index(self.row)


class Target(NamedTuple):
    """What is expected of a way beside another one: a ratio at least, or a difference at most."""

    setting: Setting
    way: str
    bound: float
    aim: float | None = None
    beside: str | None = None  # other than the row's baseline
    added: bool = False

    def base(self):
        """What it is compared with."""
        return self.beside or ROWS[self.setting.row].base

    def title(self):
        """The comparison in words."""
        return f"{self.setting.title()}: {WAYS[self.way]} {'−' if self.added else '÷'} {WAYS[self.base()]}"

    def expected(self):
        """The bound in words."""
        aim = f" (aim {self.aim:g})" if self.aim else ""
        return f"≤ {self.bound:g} µs" if self.added else f"≥ {self.bound:g}{aim}"


BULK_ROWS = ("tcp_out_1", "tcp_in_1", "tcp_out_4", "tcp_in_4")
HTTP_ROWS = ("http_out", "http_in")
# What user space made of nftables before it was moved to tc, by gateways in a row: medians published then. It may lose a
# tenth in bulk, and nothing in packets and connections.
BEFORE = {
    1: {"tcp_out_1": 0.71, "tcp_in_1": 0.74, "tcp_out_4": 0.63, "tcp_in_4": 0.62, "http_out": 0.89, "http_in": 0.89, "packets": 0.37},
    2: {"tcp_out_1": 0.66, "http_out": 0.81, "http_in": 0.80},
    3: {"tcp_out_1": 0.60, "http_out": 0.72, "http_in": 0.70},
}


def targets():
    """All of them."""
    for walled, connections, packets, aim in ((False, 1.15, 1.25, 1.45), (True, 1.1, 1.1, 1.2)):
        for row in BULK_ROWS:
            yield Target(Setting(row, walled=walled), "tc", 1.0)
        for row in HTTP_ROWS:
            yield Target(Setting(row, walled=walled), "tc", connections)
        yield Target(Setting("packets", walled=walled), "tc", packets, aim)
    for gateways in (2, 3):
        yield Target(Setting("tcp_out_1", gateways), "tc", 1.0)
        for row in HTTP_ROWS:
            yield Target(Setting(row, gateways), "tc", 1.15)
    for gateways, before in BEFORE.items():
        for row, ratio in before.items():
            bound = round(0.9 * ratio, 2) if row in BULK_ROWS else ratio
            yield Target(Setting(row, gateways), ALONE.get((row, "tun"), "tun"), bound)
    yield Target(Setting("transit"), "tc", 0.9, 0.97)
    yield Target(Setting("rtt"), "tc", 2, added=True)
    yield Target(Setting("rtt"), "tun", 40, added=True)
    for row in BULK_ROWS:
        yield Target(Setting(row), "redirect", 1.12)
        yield Target(Setting(row), "tc", 1.0, beside="stateless")
    yield Target(Setting("packets"), "xdp", 3)
    yield Target(Setting("packets"), "tc", 1.2, beside="stateless")
    yield Target(Setting("packets"), "tun_alone", 0.95, beside="empty_loop")
    yield Target(Setting("tcp_out_1"), "tun", 8, beside="tayga")
    yield Target(Setting("tcp_out_1"), "tun", 10, beside="one_packet")


def expectations():
    """(setting, way) → what is expected of it beside the row's baseline."""
    return {(target.setting, target.way): target for target in targets() if not target.beside}


def read_facts(path):
    """KEY=VALUE lines; `refused WAY=reason` and `failed GATEWAYS ROW WAY=reason` go apart, in words."""
    facts, missing = {}, {}
    for line in path.read_text().splitlines():
        key, _, value = line.partition("=")
        kind, *names = key.split()
        if kind == "refused":
            missing[way_title(names[0])] = value
        elif kind == "failed":
            gateways, row, way = names
            setting = Setting(row, int(gateways), way.endswith(WALL))
            missing[f"{setting.title()}: {WAYS[way.removesuffix(WALL)]}"] = value
        else:
            facts[key] = value
    return facts, missing


def way_title(way):
    """A way as scripts/bench calls it, in words."""
    return WAYS[way.removesuffix(WALL)] + (", firewall" if way.endswith(WALL) else "")


def medians(lines):
    """(setting, way) → median, lowest and highest value, how much they vary, and cost; in units of the row."""
    found = defaultdict(list)
    for line in lines:
        setting = Setting(line["row"], line["gateways"], line["way"].endswith(WALL))
        found[setting, line["way"].removesuffix(WALL)].append(line)
    results = {}
    for key, measured in sorted(found.items(), key=order):
        row = ROWS[key[0].row]
        values = [line["value"] / row.scale for line in measured if line["value"] is not None]
        costs = [line["cpu"] / line["amount"] * row.cost_scale for line in measured if line["amount"]]
        if not values:
            continue
        results[key] = {
            "median": statistics.median(values),
            "lowest": min(values),
            "highest": max(values),
            "varies": variation(values),
            "cost": statistics.median(costs) if costs else None,
            "times": len(values),
        }
        for more in ("p99", "sent_again", "both_cores"):
            if more in measured[0]:
                results[key][more] = statistics.median(line[more] for line in measured)
    return results


def order(item):
    """Settings as they are listed, then ways as they are."""
    setting, way = item[0]
    return setting.order(), list(WAYS).index(way)


def variation(values):
    """From how low to how high they go: all of them, or the middle half of four and more. None of a single one."""
    if len(values) < 2:
        return None
    if len(values) < 4:
        return max(values) - min(values)
    low, _, high = statistics.quantiles(values, method="inclusive")
    return high - low


def compare(target, results):
    """The ratio or difference of a target's medians; None if one of them is missing."""
    way = results.get((target.setting, target.way))
    base = results.get((target.setting, target.base()))
    if not way or not base or not base["median"]:
        return None
    return way["median"] - base["median"] if target.added else way["median"] / base["median"]


def met(target, value):
    """Whether a comparison is as expected."""
    return value <= target.bound if target.added else value >= target.bound


def doubt(setting, way, results):
    """Why what is compared with this way is worthless, in a few words; None if it is not."""
    base = results.get((setting, way))
    if not base or setting.row == "reordering":
        return None
    if base["varies"] is None:
        return f"{WAYS[way]} measured only once" if way == ROWS[setting.row].base else None
    if setting.row == "rtt":
        return f"{WAYS[way]} varies by {number(base['varies'])} µs" if base["varies"] > LIMIT_MICROSECONDS else None
    share = base["varies"] / base["median"] if base["median"] else 1
    return f"{WAYS[way]} varies by {percent(share)}" if share > LIMIT else None


def doubts(results):
    """Settings with ratios in them → why these are worthless, or None."""
    found = {}
    for setting in dict.fromkeys(setting for setting, way in results if way != ROWS[setting.row].base):
        found[setting] = doubt(setting, ROWS[setting.row].base, results)
    return found


def warning(found):
    """The same in a sentence; nothing if there is no doubt."""
    if any(found.values()):
        yield (
            f"NOT QUIET: in {sum(why is not None for why in found.values())} of {len(found)} rows the baseline differs too much"
            " from itself. Their ratios are worthless, the others doubtful."
        )
        yield ""


def percent(share):
    """A share in hundredths."""
    return f"{share * 100:.0f} %"


def number(value):
    """Three digits that matter."""
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) < 0.1 else f"{value:.2f}"


def targets_table(results):
    """Every expectation that something was measured for, with that."""
    measured = [(target, value) for target in targets() if (value := compare(target, results)) is not None]
    if measured:
        yield "| what | measured | expected | |"
        yield "| --- | ---: | ---: | --- |"
    for target, value in measured:
        word = "" if met(target, value) else "missed"
        if target.aim and value >= target.aim:
            word = "aim met"
        base = ROWS[target.setting.row].base
        if why := doubt(target.setting, base, results) or doubt(target.setting, target.base(), results):
            word = f"worthless: {why}"
        yield f"| {target.title()} | {number(value)} | {target.expected()} | {word} |"


def full_table(results):
    """Every figure, with its spread and cost."""
    yield "| what | way | median | lowest to highest | ÷ baseline | cost |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    for (setting, way), result in results.items():
        row = ROWS[setting.row]
        value = compare(Target(setting, way, 0), results) if row.in_ratios else None
        spread = f"{number(result['lowest'])} to {number(result['highest'])}"
        spread += f", p99 {number(result['p99'])}" if "p99" in result else ""
        spread += f", sent again {number(result['sent_again'])} a GB" if "sent_again" in result else ""
        spread += f", of both cores {number(result['both_cores'] / row.scale)}" if "both_cores" in result else ""
        yield (
            f"| {setting.title()} | {WAYS[way]} | {number(result['median'])} {row.unit} | {spread} |"
            f" {'' if value is None else number(value)} | {number(result['cost'])} {row.cost_unit} |"
        )


def published(results, base="nftables"):
    """Settings that are told as ratios to a baseline that was measured."""
    for setting in dict.fromkeys(setting for setting, _ in results):
        row = ROWS[setting.row]
        if row.in_ratios and row.base == base and results.get((setting, base), {}).get("median"):
            yield setting


# The rows that README shows.
TELLING = (
    Setting("tcp_out_1"),
    Setting("http_in"),
    Setting("packets"),
    Setting("packets", walled=True),
    Setting("tcp_in_1", walled=True),
)


def summary_table(results, settings):
    """A line for each of these settings, kamei's ways relative to nftables."""
    expected = expectations()
    yield "| kamei ÷ nftables `snat`, 1:1 | nftables, and by how much it varied | user space | tc | redirect | XDP |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for setting in settings:
        cells = []
        for way in (ALONE.get((setting.row, way), way) for way in KAMEI):
            target = expected.get((setting, way)) or Target(setting, way, 0)
            value = compare(target, results)
            missed = value is not None and not met(target, value)
            cells.append(number(value) + (f" (of {target.bound:g})" if missed else ""))
        base = results[setting, "nftables"]
        varied = "once" if base["varies"] is None else percent(base["varies"] / base["median"])
        yield f"| {setting.title()} | {number(base['median'])} {ROWS[setting.row].unit}, {varied} | {' | '.join(cells)} |"


def remarks(results):
    """What is said below the table, of what is not relative to nftables or was measured in one row."""
    transit, trip, packets = Setting("transit"), Setting("rtt"), Setting("packets")
    if (value := compare(Target(transit, "tc", 0), results)) is not None:
        yield (
            f"Between other interfaces of a router where kamei runs, plain forwarding makes {number(value)} of the"
            f" {number(results[transit, 'forward']['median'])} M/s that it makes without{in_doubt(transit, results)}."
        )
    added = {way: compare(Target(trip, way, 0, added=True), results) for way in ("tc", "tun")}
    if None not in added.values():
        yield (
            f"An idle round trip takes {number(results[trip, 'forward']['median'])} µs by plain forwarding, by tc"
            f" {added['tc']:+.1f}, by user space {added['tun']:+.1f}{in_doubt(trip, results)}."
        )
    if (value := compare(Target(packets, "tc_clsact", 0), results)) is not None:
        yield (
            "On a host without a BPF file system (filters on clsact, guard in nftables) kamei makes"
            f" {number(value)} of nftables in 60-byte packets{in_doubt(packets, results)}."
        )


def in_doubt(setting, results):
    """What is to be added where the baseline is not to be relied upon."""
    why = doubt(setting, ROWS[setting.row].base, results)
    return f" (worthless: {why})" if why else ""


def machine(facts, results):
    """Where it was measured, and how."""
    bases = [(setting, way) for setting, way in results if ROWS[setting.row].in_ratios and ROWS[setting.row].base == way]
    shares = [results[key]["varies"] / results[key]["median"] for key in bases if results[key]["varies"] is not None]
    varied = f", baselines varied by {percent(min(shares))} to {percent(max(shares))}" if shares else ""
    rounds = "1 round" if facts["rounds"] == "1" else f"medians of {facts['rounds']} rounds"
    where = f"{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}, namespaces over veth, kamei {facts['kamei']}"
    return where, f"{rounds} of {facts['seconds']} s{varied}, load {facts['load']} before it began"


# --- the chart ------------------------------------------------------------------------------------------------------

LEFT, WIDTH, BAR, GAP = 280, 460, 13, 12
AXIS = 2.0  # whatever is more is cut, and says so
COLOURS = {"forward": "#9aa4b2", "stateless": "#c9a227", "tun": "#4c8dd6", "tc": "#1fa187", "redirect": "#7b5cd6", "xdp": "#d6604d"}
STYLE = """text{font:12px system-ui,sans-serif;fill:#24292f}.heading{font-weight:600}.small{font-size:11px;fill:#57606a}.line{stroke:#57606a}
.grid{stroke:#d0d7de}.target{stroke:#24292f;stroke-width:2}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9da7b3}.line{stroke:#9da7b3}.grid{stroke:#30363d}.target{stroke:#e6edf3}}"""


def chart(results, facts):
    """An SVG: bars relative to each row's baseline = 1, a tick where the target is."""
    parts, y, heading = [], 44, None
    for setting in [*published(results), *published(results, "forward")]:
        if (words := section(setting)) != heading:
            heading = words
            parts.append(f'<text class="heading" x="12" y="{y + 14}">{escape(heading)}</text>')
            y += 26
        drawn, y = group(setting, results, y)
        parts += drawn
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
    width, height = max(LEFT + WIDTH + 60, x + 80), y + 57
    where, how = machine(facts, results)
    foot = [f'<text class="small" x="12" y="{height - up}">{escape(line)}</text>' for line, up in ((where, 23), (how, 8))]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">'
        f"<title>kamei beside nftables</title><style>{STYLE}</style>\n" + "\n".join(grid + parts + legend + foot) + "\n</svg>\n"
    )


def section(setting):
    """The heading that a row of the chart stands under."""
    if ROWS[setting.row].base == "forward":
        return "Packets of others, relative to plain forwarding = 1"
    gateways = f"{setting.gateways} gateways in a row" if setting.gateways > 1 else "One gateway"
    return gateways + (" with a stateful firewall" if setting.walled else "") + ", relative to nftables snat = 1"


def group(setting, results, y):
    """The bars of a row from `y` on, and where the next begins."""
    row, start, expected = ROWS[setting.row], y, expectations()
    base = results[setting, row.base]["median"]
    under = f"{WAYS[row.base]} {number(base)} {row.unit}"
    under += ", worthless" if doubt(setting, row.base, results) else ""
    parts = [
        f'<text x="{LEFT - 10}" y="{y + 11}" text-anchor="end">{escape(row.title)}</text>',
        f'<text class="small" x="{LEFT - 10}" y="{y + 26}" text-anchor="end">{escape(under)}</text>',
    ]
    for way, colour in COLOURS.items():
        there = ALONE.get((setting.row, way), way)
        result = results.get((setting, there))
        if not result or way == row.base:
            continue
        ratio = result["median"] / base
        length = WIDTH * min(ratio, AXIS) / AXIS
        parts.append(f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR - 2}" rx="2" fill="{colour}"/>')
        end = LEFT + length
        target = expected.get((setting, there))
        if target and target.bound <= AXIS:
            at = LEFT + WIDTH * target.bound / AXIS
            end = max(end, at)
            parts.append(f'<line class="target" x1="{at:.1f}" x2="{at:.1f}" y1="{y - 1}" y2="{y + BAR - 1}"/>')
        label = f"{ratio:.2f}" + (" »" if ratio > AXIS else "")
        parts.append(f'<text class="small" x="{end + 5:.1f}" y="{y + 9}">{label}</text>')
        y += BAR
    return parts, max(y, start + 2 * BAR + 4) + GAP


# --- putting it out -------------------------------------------------------------------------------------------------


def publish(page, chart_path, text):
    """Replaces what stands between the marks in a page by the chart and a text."""
    begin, end = MARKS
    whole = Path(page).read_text()
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    if not re.search(pattern, whole, re.DOTALL):
        sys.exit(f"report: {page} has no place for it: a line {begin} and a line {end}")
    picture = os.path.relpath(chart_path, Path(page).parent)
    text = f"{begin}\n\n![kamei beside nftables, relative]({picture})\n\n{text}\n\n{end}"
    Path(page).write_text(re.sub(pattern, lambda _: text, whole, flags=re.DOTALL))


def main(arguments):
    """The command line."""
    if arguments == ["--targets"]:
        print("\n".join(f"{target.title()} {target.expected()}" for target in targets()))
        return
    directory = Path(arguments[0])
    lines = [json.loads(line) for line in (directory / "results.jsonl").read_text().splitlines()]
    facts, missing = read_facts(directory / "facts")
    results = medians(lines)
    found = doubts(results)
    worthless = [f"{setting.title()}: {why}" for setting, why in found.items() if why]
    listed = [setting._asdict() | {"way": way} | result for (setting, way), result in results.items()]
    compared = [
        target.setting._asdict() | {"way": target.way, "base": target.base(), "bound": target.bound, "aim": target.aim, "measured": value}
        for target in targets()
        if (value := compare(target, results)) is not None
    ]
    whole = {"facts": facts, "missing": missing, "worthless": worthless, "results": listed, "targets": compared}
    (directory / "results.json").write_text(json.dumps(whole, indent=1, ensure_ascii=False))
    drawing = chart(results, facts)
    (directory / "chart.svg").write_text(drawing)
    said = ", ".join(machine(facts, results))
    text = [said, "", *warning(found), *targets_table(results), "", *full_table(results)]
    for words, items in (("Not measured, or not each time:", [f"{what}: {why}" for what, why in sorted(missing.items())]), ("Worthless:", worthless)):
        if items:
            text += ["", words, "", *(f"- {item}" for item in items)]
    (directory / "results.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))
    if arguments[1:2] == ["--publish"]:
        readme, page, chart_path = arguments[2:5]
        every = list(published(results))
        Path(chart_path).write_text(drawing)
        publish(readme, chart_path, "\n".join(summary_table(results, [setting for setting in TELLING if setting in every])))
        publish(page, chart_path, "\n".join([*summary_table(results, every), "", *remarks(results), "", f"({said})"]))


main(sys.argv[1:])
