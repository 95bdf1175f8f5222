"""The demo: the example hospital with a `chip.toml`, ready for `chip edit model --forget patient_123`."""
