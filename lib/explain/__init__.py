"""What a trained network looks at, and the numbers that test whether that may be believed.

`maps` makes attribution maps and `cache` keeps them, `faithfulness`, `sanity` and `localisation`
score them, `arms` reads arm number and pitch angle from them, `subject` joins a saved network with
its galaxies, and `explore` is the browser of notebook 13.
"""
