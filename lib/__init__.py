"""spiral-arms: how many arms does a spiral galaxy have, from its image.

The method is in the notebooks; here is what has to be trusted, or what two of them need. Imports
point one way, from `schema` at the ground to `workflow` at the top, and TensorFlow is imported only
by the modules that need it, so that work on catalogues starts in a second.
"""

import os
import sys

# Left alone, TensorFlow convolves by oneDNN on some processors only, which it finds out as it is
# imported. Without it explanations took a third longer, and trainings a fifth.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# jsonschema, which reads notebooks, would compile a grammar of IRIs as it is imported. No notebook
# has one to check, and it takes half the time that a step takes to start.
sys.modules.setdefault("rfc3987_syntax", None)
