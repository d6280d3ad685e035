"""Run the chain on Kaggle: what is uploaded (`bundle`), and what a session there does (`session`).

``python -m lib.kaggle build --profile gz2 --out build/kaggle`` makes one folder for the code, a
data set, and one for each kernel, a notebook that Kaggle runs: the whole chain, and each training
by itself.
"""
