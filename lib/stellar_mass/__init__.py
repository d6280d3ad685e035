"""Stellar mass, or another property, against arm number (paper Sec. 6).

`catalogue` reads and cuts a mass catalogue and matches it to galaxies; `statistics` compares the
arm classes, as published and as it should be.
"""
