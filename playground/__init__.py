"""Adapter Playground: chat with a base model and its LoRA adapters, side by side, and see what the fine-tune changed."""

__version__ = "0.1.0"
