"""Stage `classify`: a LoRA with a classification head, from labelled texts to a directory.

A folder of its own, with a digest of its own: a change here makes no adapter of another stage train
again. It does not cover token classification, regression or several labels for one text.
"""
