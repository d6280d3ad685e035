"""What a trained network looks at, and the numbers that test whether that may be believed.

`maps` makes attribution maps, `gallery` chooses the galaxies of Figs. 9 and 10 of Lee, Soo &
Sharoni (arXiv:2412.11696), `faithfulness`, `sanity` and `localisation` score the maps, `arms`
reads arm number, pitch angle and arm coherence from them, and `subject` joins a saved model with
its galaxies. Only `maps`, `subject` and `sanity` need TensorFlow.
"""
