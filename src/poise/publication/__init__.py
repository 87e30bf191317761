"""A trained reward model as a folder for others: plain weights, tokenizer, golden scores and a model card."""

from poise.publication.card import About
from poise.publication.folder import FORMS, Export, export
from poise.publication.verification import Verification, verify_folder

__all__ = ["FORMS", "About", "Export", "Verification", "export", "verify_folder"]
