"""Stellar mass against arm number (paper Sec. 6): what notebook 06 must be able to trust.

`catalogue` gives galaxies their masses by exact identifiers, `classes` collects their arm classes
from every source, `statistics` has intervals, shifts at fixed covariates, matched pairs and power,
`dilution` what wrong classes and a wrong join do, `literature` what others have found.
"""
