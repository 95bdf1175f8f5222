"""Solving: from statistics to an edit, by orthogonal projection (CHIP) or by oblique projection."""
