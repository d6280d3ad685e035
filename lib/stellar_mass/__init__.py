"""Stellar mass against arm number (paper Sec. 6): what notebook 06 must be able to trust.

`catalogue` gives galaxies their masses by exact identifiers, `classes` collects their arm classes
from every source, `statistics` has shifts at fixed covariates, matched pairs, and what wrong
classes leave of a shift.
"""
