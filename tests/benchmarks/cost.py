"""What a survey of a billion cut-outs costs, from the rates that ``make bench`` has measured."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results.json")
PAGE = ROOT / "docs" / "clusters.md"
START, END = "<!-- cost: written by make bench -->", "<!-- end of cost -->"

CUT_OUTS = 1_000_000_000
MACHINES = {"2 cores": 2, "one node of 64 cores": 64, "16 nodes of 64 cores": 1024}


def core_seconds(report: dict) -> dict[str, float]:
    """Processor seconds per cut-out of each measured way, JPEG to probability.

    The V2 role is not exported by the benchmarks: its time is that of TensorFlow's forward pass on
    all cores of the machine, and an upper limit of what ONNX Runtime needs.
    """
    sections = report["sections"]
    prediction = {row["what"]: row for row in sections["prediction"]}
    ours = prediction["lib.predict, JPEG to probability"]
    decoding = prediction["decoding alone, one thread"]["processor ms/image"]
    forward = next(row for row in sections["fine_tuning"] if row["part"] == "forward")
    cores = report["machine"]["processors"]
    return {
        f"EfficientNetB0, {ours['crop [px]']} px, ONNX Runtime": ours["processor ms/image"] / 1000,
        f"{forward['network']}, TensorFlow": (forward["ms per image"] * cores + decoding) / 1000,
    }


def table(report: dict) -> str:
    """Markdown table: core-hours and days for a billion cut-outs, one view each."""
    lines = [
        f"| network | core-hours | {' | '.join(f'days on {name}' for name in MACHINES)} |",
        f"|---|---|{'---|' * len(MACHINES)}",
    ]
    for name, seconds in core_seconds(report).items():
        hours = seconds * CUT_OUTS / 3600
        days = " | ".join(f"{hours / 24 / cores:,.1f}" for cores in MACHINES.values())
        lines.append(f"| {name} | {hours:,.0f} | {days} |")
    lines += [
        "",
        f"Measured in size `{report['size']}` on {report['machine']['processors']} cores "
        f"({report['machine']['platform']}).",
    ]
    return "\n".join(lines)


def write(report: dict) -> None:
    """Put the table into the documentation."""
    text = PAGE.read_text()
    before, rest = text.split(START)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{START}\n{table(report)}\n{END}{after}")
