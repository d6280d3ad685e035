"""Running notebooks: steps, profiles, receipts, downloads, Kaggle, and what is made of runs."""
