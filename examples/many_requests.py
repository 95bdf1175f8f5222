"""Run the records once, then answer request after request from what that left behind.

python examples/many_requests.py demo/model demo/records patient_123 patient_367
"""

import sys

import chip


def main(model: str, data: str, *nodes: str) -> None:
    """Write a checkpoint of its own for each node, MODEL-without-NODE."""
    statistics = chip.Statistics.collect(model, data, out=f"{model}.statistics.safetensors")
    print(statistics)
    for node in nodes:
        edit = chip.edit(model, data, forget=[node], out=f"{model}-without-{node}", statistics=statistics)
        print(node)
        print(edit)


if __name__ == "__main__":
    main(*sys.argv[1:])
