"""Arm counters beyond the paper: classical features, amplitudes, vote heads, pre-training."""
