"""Sentences of the page, as HTML."""

from typing import Any

from cnn.html import escape


def shape(shape: Any) -> str:
    return " x ".join(map(str, shape))


def text(words: str) -> str:
    return f"<p>{escape(words, quote=False)}</p>"


def soft(words: str) -> str:
    return f'<p class="soft">{escape(words, quote=False)}</p>'


def numbers(words: str) -> str:
    return f'<p class="numbers">{escape(words, quote=False)}</p>'
