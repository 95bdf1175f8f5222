"""chip takes named things out of a trained model without training it."""
