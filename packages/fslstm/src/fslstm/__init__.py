"""Few-shot classification with a closed-form LS-SVM base learner and transductive modules (2020)."""

__version__ = "0.1.0"
