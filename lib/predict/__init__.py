"""Apply a trained network to a survey of any size.

`package` exports a training run with everything needed elsewhere; `inputs` lists and reads
cut-outs; `engine` runs the network by ONNX Runtime or, on a GPU, by TensorFlow; `survey` works
through a list in shards; `catalogue` says what the columns are and writes them. The command line is
``python -m lib.predict``; `count_arms` (the command ``count-arms``) takes a few galaxies of any
scale, also from the `sky`. TensorFlow is imported for the export and on a GPU only.
"""
