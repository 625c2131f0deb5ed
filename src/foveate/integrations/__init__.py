"""Foveate inside other frameworks: one module per host, each imported by name.

The modules are ``foveate.integrations.albumentations``, ``.kornia`` and ``.lightning``; for torchvision, see
:mod:`foveate.transforms`.
"""
