"""Serving: ranks requests from a bundle. Needs numpy and pyarrow; `reader.py` also onnxruntime."""
