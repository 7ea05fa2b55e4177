"""What may come next: masks over the vocabulary from JSON schemas, regexes and Lark grammars."""

from evolute.grammar.compiler import JSON_WHITESPACE, Grammar, GrammarCompiler
from evolute.grammar.matcher import Matcher

__all__ = ["JSON_WHITESPACE", "Grammar", "GrammarCompiler", "Matcher"]
