"""The use cases of the benchmark: build, split, finetune, run, check."""
