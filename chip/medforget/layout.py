"""The files of a built benchmark and of a run, by their names."""

FORMAT = "chip-medforget-1"
TRAINING = "training.jsonl"
MANIFEST, SPLITS = "manifest.json", "splits.json"
IMAGES = "images"
PAGE, VALUES, PICTURE = "results.md", "results.json", "results.png"
"""What a run writes."""
