"""What a plain text classifier reaches on the same data: the figure to publish beside an adapter.

TF-IDF of words and character n-grams, then logistic regression. If an adapter does not clearly
beat it, say so: the adapter's worth then lies elsewhere (one server, free text, several tasks).
"""

from collections.abc import Sequence

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union

from adapters.packs import Item


def classify(train: Sequence[Item], held_out: Sequence[Item]) -> list[str]:
    """The labels that the classifier, fitted on `train`, gives to `held_out`, in its order."""
    features = make_union(
        TfidfVectorizer(analyzer="word", ngram_range=(1, 2), sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
    )
    model = make_pipeline(features, LogisticRegression(C=10.0, max_iter=1000))
    model.fit([item.text for item in train], [item.label for item in train])
    return [str(label) for label in model.predict([item.text for item in held_out])]
