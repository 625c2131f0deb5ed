"""Foveate inside other frameworks: one module a host, imported by name, so that none is loaded by another.

``foveate.integrations.albumentations``, ``.kornia`` and ``.lightning``; torchvision's is :mod:`foveate.transforms`.
"""
