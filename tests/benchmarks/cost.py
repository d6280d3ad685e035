"""What ``make bench`` writes into the documentation: tables of the numbers that it has measured.

What a survey of a billion cut-outs costs goes into ``docs/clusters.md``, accuracy and time against
the number of kept copies into README.md beside.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results.json")
PAGE = ROOT / "docs" / "clusters.md"
START, END = "<!-- cost: written by make bench -->", "<!-- end of cost -->"
NOTES = Path(__file__).with_name("README.md")
COPIES_START, COPIES_END = "<!-- copies: written by make bench -->", "<!-- end of copies -->"

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


def copies_table(report: dict) -> str:
    """Markdown table: accuracy and time against the number K of kept copies."""
    accuracy = report["sections"].get("frozen_accuracy", [])
    times = {row["copies K"]: row for row in report["sections"].get("frozen_backbone", [])}
    if not accuracy:
        return "Not measured yet."
    first = accuracy[0]
    lines = [
        f"| K | validation accuracy | minus K = {first['epochs']} (95 %) "
        f"| seconds of {first['trainings']} trainings | times faster, paper's problem |",
        "|---|---|---|---|---|",
    ]
    known = {row["copies K"]: row for row in accuracy}
    for number in sorted({*known, *times}):
        cells = ["", "", ""]
        if row := known.get(number):
            cells = [
                f"{row['accuracy']:.3f}",
                f"{row['minus K = epochs']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})",
                f"{row['seconds, measured']:.1f}",
            ]
        faster = f"{times[number]['ratio']:.1f}" if number in times else ""
        lines.append(f"| {number} | {' | '.join(cells)} | {faster} |")
    lines += [
        "",
        f"Accuracy: {first['validation galaxies']} galaxies of the embedded survey, "
        f"{first['epochs']} epochs. Times faster than the published loop: five seeds, 50 epochs, "
        "1,122 galaxies of 224 px, extrapolated. "
        f"Size `{report['size']}` on {report['machine']['processors']} cores.",
    ]
    return "\n".join(lines)


def write(report: dict) -> None:
    """Put the tables into the documentation."""
    for page, start, end, text in (
        (PAGE, START, END, table(report)),
        (NOTES, COPIES_START, COPIES_END, copies_table(report)),
    ):
        before, rest = page.read_text().split(start)
        page.write_text(f"{before}{start}\n{text}\n{end}{rest.split(end)[1]}")
