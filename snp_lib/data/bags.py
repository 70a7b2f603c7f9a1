"""What a bag of words does: tf-idf with logistic regression and with a linear SVM, scikit-learn's, not tuned (defined here)."""

from __future__ import annotations

from typing import Any

from snp_lib.data.text import Texts

WORDS: dict[str, Any] = {"token_pattern": r"\w+", "ngram_range": (1, 2)}
CHARACTERS: dict[str, Any] = {"analyzer": "char", "ngram_range": (1, 4)}


def bag_accuracy(texts: Texts) -> dict[str, float]:
    """Test accuracy in [0, 1] of a linear SVM (C = 1) and logistic regression (C = 10), by name, fitted on the training split.

    Features are words and pairs of words or, for data read by characters, runs of one to four characters, with sublinear term
    frequencies. Logistic regression is left out for characters, where it takes too long.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # takes seconds to import
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    (train, labels), (test, truth) = (zip(*part, strict=True) for part in (texts.train, texts.test))
    vectorizer = TfidfVectorizer(sublinear_tf=True, **(CHARACTERS if texts.characters else WORDS))
    features, unseen = vectorizer.fit_transform(train), vectorizer.transform(test)
    models: dict[str, Any] = {"linear SVM": LinearSVC(C=1.0)}
    if not texts.characters:
        models["logistic regression"] = LogisticRegression(C=10.0, max_iter=1000)
    return {name: float(model.fit(features, labels).score(unseen, truth)) for name, model in models.items()}
