"""What every launch of a Triton kernel is told."""

FUSION = {"enable_fp_fusion": True}
"""Said outright because Triton's default is changing, and the same inputs must give the same bytes."""
