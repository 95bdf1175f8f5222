"""Models as chip sees them: families as data, checkpoints as files, prompts, and the sites that can be edited.

Nothing is imported here: `chip.models.checkpoint` is used where torch must stay out.
"""
