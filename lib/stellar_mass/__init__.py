"""Stellar mass, or another property, against arm number (paper Sec. 6).

`catalogue` reads and cuts a mass catalogue and matches it to galaxies, `groups` puts them into arm
classes by label and by model, `published` compares the classes as the paper does, `statistics` as
it should be done, and `dilution` follows the effect of wrong classes.
"""
