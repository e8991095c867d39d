"""Runs a plan in this process, one block after the other, and prints what each pass took above what was held before.

    python measured_passes.py SOURCE SMALL OUTPUT PIPELINE.json BLOCK

The pipeline runs on SMALL first, so that everything is imported and compiled. The peak of the process is set back
before each pass, which Linux alone can do.
"""

import json
import sys
from pathlib import Path
from typing import Any

import chunkflow as cf
from chunkflow.run.journal import Journal


def _resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def main() -> None:
    source, small, output, stored, block = sys.argv[1:]
    pipeline = cf.Pipeline.from_dict(json.loads(Path(stored).read_text()))
    pipeline.plan(small, Path(output, "small"), block=(24, 24, 24)).run(on="serial")
    plan = pipeline.plan(source, Path(output, "large"), block=(int(block),) * 3)
    before = {}

    def listen(event: Any) -> None:
        if event["event"] == "pass":
            before[event["pass"]] = _resident()
            Path("/proc/self/clear_refs").write_text("5")

    plan.run(on="serial", on_event=listen)
    journal = Journal.read(plan.output / "run" / "journal.jsonl")
    found = {}
    for p in plan.passes:
        peak = max(unit["peak"] for unit in journal.state(journal.published_passes[p.name]).done.values())
        found[p.name] = {
            "projected": p.peak_bytes,
            "measured": peak - before[p.name],
            "merge": p.draft.merge is not None,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
