"""Reading and writing records: a data directory with `records.jsonl`, `dataset.json` and images."""

from chip.records.jsonl import read_records, write_records

__all__ = ["read_records", "write_records"]
