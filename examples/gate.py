"""Audit an edited model, and let a release fail where an attack brings the target back.

python examples/gate.py demo/model demo/model-forgotten demo/records patient_123 report
"""

import sys

import chip


def main(base: str, edited: str, data: str, node: str, report: str, *attacks: str) -> None:
    """Write the report, print what it says, and exit with an error where a verdict is `fail`."""
    audit = chip.Audit.of(base, edited, data, forget=[node], quick=True, attacks=attacks or None)
    audit.save(report)
    print(audit)
    if failed := [attack for attack, verdict in audit.verdicts.items() if verdict == "fail"]:
        raise SystemExit(f"not released: {', '.join(failed)} brought the target back; see {report}/report.html")


if __name__ == "__main__":
    main(*sys.argv[1:])
