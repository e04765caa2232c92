"""The process behind the panel: one inference session, served over standard input and output.

`python -m PartialSegLib.worker --scratch FOLDER`. Nothing here imports torch before a model is loaded.
"""
